//! A Kafka broker that is its own controller (KRaft).

use super::Lifetime;
use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::run;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAP: &str = "512m";
/// In the folder of its data.
pub const PROPERTIES: &str = "server.properties";

/// The command that runs it; its storage is formatted first if it is new.
pub fn command(
    layout: &Layout,
    libraries: &Path,
    data: &Path,
    port: u16,
    controller_port: u16,
    lifetime: Lifetime,
) -> Result<Command> {
    let properties = data.join(PROPERTIES);
    std::fs::write(&properties, settings(data, port, controller_port))
        .map_err(Failure::io(format!("write {}", properties.display())))?;
    let java = |main: &str| {
        let mut command = Command::new("java");
        let logging = layout.checkout.join("tools/servers/kafka/log4j2.properties");
        command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        command.args(["-cp"]).arg(libraries.join("*"));
        if lifetime == Lifetime::OneTestRun {
            // What it runs most is compiled at once, and nothing else: it does not live long enough to gain more.
            command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        }
        command.args([&format!("-Xmx{HEAP}"), main]);
        command
    };
    if !folder(data, controller_port).join("meta.properties").is_file() {
        let mut format = java("kafka.tools.StorageTool");
        // Any id will do: 16 bytes in base64.
        format.args(["format", "--standalone", "-t", "d2Vpci10ZXN0LWNsdXN0ZQ", "-c"]).arg(&properties);
        run(format.stdout(std::process::Stdio::null()))?;
    }
    let mut broker = java("kafka.Kafka");
    broker.arg(&properties);
    Ok(broker)
}

/// A controller's address is in its data: with another one it begins anew.
fn folder(data: &Path, controller_port: u16) -> PathBuf {
    data.join(format!("log-{controller_port}"))
}

fn settings(data: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         num.partitions=4\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         transaction.abort.timed.out.transaction.cleanup.interval.ms=500\n",
        folder(data, controller_port).display()
    )
}
