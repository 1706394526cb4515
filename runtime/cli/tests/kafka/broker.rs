//! The broker, through a client of another make; and one of a test's own, which it may kill.

use crate::support::Scratch;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use weir_kafka_client::{Cluster, Options, Producer, ProducerOptions, Transaction};

const PATIENCE: Duration = Duration::from_secs(30);
/// Of a broker's start, on a machine that does other things too.
const START: Duration = Duration::from_secs(150);

#[derive(Clone)]
pub struct Broker {
    pub address: String,
    python: String,
}

#[derive(Debug)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<String>,
}

impl Message {
    pub fn json(&self) -> Result<Value, String> {
        let value = self.value.as_deref().ok_or_else(|| format!("a message without a value: {self:?}"))?;
        serde_json::from_str(value).map_err(|error| format!("{error}: {self:?}"))
    }
}

impl Broker {
    /// None: there is none, and the test says so.
    pub fn of_tests() -> Option<Broker> {
        let Ok(address) = std::env::var("WEIR_TEST_KAFKA") else {
            eprintln!("skipped: WEIR_TEST_KAFKA names no broker; `cargo xtask test --test kafka` starts one");
            return None;
        };
        let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set by `cargo xtask test`");
        Some(Broker { address, python })
    }

    pub fn create(&self, topic: &str, partitions: u32) {
        self.client(&["create", topic, &partitions.to_string()]);
    }

    pub fn fill(&self, topic: &str, first: i64, count: i64, keys: i64) {
        self.client(&["fill", topic, &first.to_string(), &count.to_string(), &keys.to_string()]);
    }

    pub fn create_compacted(&self, topic: &str, partitions: u32) {
        self.client(&["compacted", topic, &partitions.to_string()]);
    }

    /// Gives a topic so many partitions.
    pub fn extend(&self, topic: &str, partitions: u32) {
        self.client(&["extend", topic, &partitions.to_string()]);
    }

    /// Messages by partition, key and value; `scratch` takes them on their way.
    pub fn put<V: serde::Serialize>(
        &self,
        scratch: &Scratch,
        topic: &str,
        messages: impl Iterator<Item = (i32, Option<String>, V)>,
    ) {
        let lines: String = messages.map(|message| format!("{}\n", serde_json::json!(message))).collect();
        let file = scratch.write(&format!("{topic}.messages"), lines);
        self.client(&["put", topic, &file.display().to_string()]);
    }

    /// Records by the number and the text of their schema, in Avro by an encoder of another make.
    pub fn put_avro(&self, scratch: &Scratch, topic: &str, records: &[(Option<u32>, &Value, Value)]) {
        let lines: String = records.iter().map(|record| format!("{}\n", serde_json::json!(record))).collect();
        let file = scratch.write(&format!("{topic}.records"), lines);
        self.client(&["avro", topic, &file.display().to_string()]);
    }

    /// The same with values of Avro as JSON, by their schemas' numbers or by the one of `null`.
    pub fn read_avro(&self, scratch: &Scratch, topic: &str, schemas: &BTreeMap<String, Value>) -> Vec<Message> {
        let file = scratch.write(&format!("{topic}.schemas"), serde_json::json!(schemas).to_string());
        messages(&self.client(&["read_avro", topic, &file.display().to_string()]))
    }

    /// What is committed, in the order of each partition.
    pub fn read(&self, topic: &str) -> Vec<Message> {
        messages(&self.client(&["read", topic]))
    }

    /// The sum of a group's offsets.
    pub fn group_position(&self, group: &str, topic: &str) -> i64 {
        self.client(&["group", group, topic]).trim().parse().expect("a number")
    }

    /// The ids of open transactions that begin so.
    pub fn open_transactions(&self, prefix: &str) -> Vec<String> {
        let open = self.cluster().open_transactions(prefix, PATIENCE).expect("the broker answers");
        open.into_iter().map(|open| open.transactional_id).collect()
    }

    /// Until readers see all that is committed: an end is decided before all partitions know of it.
    pub fn await_ends(&self, prefix: &str) {
        let mut cluster = self.cluster();
        crate::support::await_condition("the ends of transactions", || {
            cluster.ending_transactions(prefix, PATIENCE).expect("the broker answers").is_empty().then_some(())
        });
    }

    /// Commits the transactions that are open with these ids, as the process that has them in a checkpoint would. A broker
    /// that has just started knows of them one after the other.
    pub fn commit_open(&self, ids: &[String]) {
        let mut cluster = self.cluster();
        let version = cluster.version_of_transactions().expect("the broker answers");
        for id in ids {
            let identity = crate::support::await_condition("the broker knows of the open transaction", || {
                let described = cluster.describe_transaction(id, PATIENCE).expect("the broker answers")?;
                (described.0 == "Ongoing").then_some(described.1)
            });
            let transaction = Transaction { transactional_id: id.clone(), identity, version, ranges: vec![] };
            cluster.end_transaction(&transaction, true, PATIENCE).expect("the commit");
        }
    }

    /// Who writes with this id, as a writer that does not know yet that it was replaced.
    pub fn writer(&self, topic: &str, id: &str) -> Producer {
        let options = ProducerOptions::new(&BTreeMap::new()).expect("no settings");
        Producer::transactional(self.cluster(), options, topic, id, PATIENCE).expect("the broker answers")
    }

    fn cluster(&self) -> Cluster {
        let options = Options::new(&self.address, &BTreeMap::new()).expect("an address");
        Cluster::new(options).expect("no TLS")
    }

    fn client(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/client.py");
        let mut command = Command::new(&self.python);
        let output = command.arg(script).arg(&self.address).args(arguments).output().expect("start Python");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).expect("JSON")
    }
}

fn messages(lines: &str) -> Vec<Message> {
    let message = |line: &str| {
        let (partition, offset, key, value) = serde_json::from_str(line).expect("a line of the client");
        Message { partition, offset, key, value }
    };
    let messages: Vec<Message> = lines.lines().map(message).collect();
    let is_later = |pair: &[Message]| pair[0].partition != pair[1].partition || pair[0].offset < pair[1].offset;
    assert!(messages.windows(2).all(is_later), "a partition's messages come in its order");
    messages
}

/// A broker that only one test uses. Killed when it goes out of scope.
pub struct OwnBroker {
    pub broker: Broker,
    folder: PathBuf,
    child: Child,
    starts: u32,
}

impl OwnBroker {
    /// With the libraries and settings of the broker of all tests. None: nobody says where they are, and the test says so.
    pub fn start(folder: &Path) -> Option<OwnBroker> {
        Self::start_with(folder, "", &[], |_| vec![])
    }

    /// With settings that replace or complete those; `listeners` are named, and put on free ports, which `more` is told.
    pub fn start_with(
        folder: &Path,
        listeners: &str,
        format: &[&str],
        more: impl FnOnce(&BTreeMap<String, u16>) -> Vec<(String, String)>,
    ) -> Option<OwnBroker> {
        let mut broker = Broker::of_tests()?;
        let Ok(properties) = std::env::var("WEIR_TEST_KAFKA_PROPERTIES") else {
            eprintln!(
                "skipped: WEIR_TEST_KAFKA_PROPERTIES and _LIBRARIES are not set; `cargo xtask test --test kafka` sets them"
            );
            return None;
        };
        let settings = std::fs::read_to_string(properties).expect("the settings of the tests' broker");
        let names: Vec<&str> = ["PLAINTEXT", "CONTROLLER"].into_iter().chain(listeners.split_whitespace()).collect();
        let ports = free_ports(&names);
        let (port, controller) = (ports["PLAINTEXT"], ports["CONTROLLER"]);
        let mut settings: BTreeMap<String, String> = settings
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let addresses = |host: &str, names: &[&str]| {
            let address = |name: &&str| match *name {
                "PLAINTEXT" | "CONTROLLER" => format!("{name}://127.0.0.1:{}", ports[*name]),
                _ => format!("{name}://{host}:{}", ports[*name]),
            };
            names.iter().map(address).collect::<Vec<_>>().join(",")
        };
        let advertised: Vec<&str> = names.iter().copied().filter(|name| *name != "CONTROLLER").collect();
        let own = [
            ("listeners", addresses("127.0.0.1", &names)),
            // Another name for the same, which certificates may have.
            ("advertised.listeners", addresses("localhost", &advertised)),
            ("controller.quorum.bootstrap.servers", format!("127.0.0.1:{controller}")),
            ("log.dirs", folder.join("broker").display().to_string()),
        ];
        settings.extend(own.map(|(name, value)| (name.to_owned(), value)));
        settings.extend(more(&ports));
        let settings: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(folder.join("server.properties"), settings).expect("write the broker's settings");
        let storage = ["kafka.tools.StorageTool", "format", "--standalone", "-t", "d2Vpci10ZXN0LWNsdXN0ZQ"];
        let storage: Vec<&str> = storage.into_iter().chain(format.iter().copied()).chain(["-c"]).collect();
        let formatted = java(folder, "format", &storage).wait().expect("wait for the format");
        assert!(formatted.success(), "the broker's storage cannot be formatted; see {}", folder.display());
        broker.address = format!("127.0.0.1:{port}");
        let child = java(folder, "broker-0", &["kafka.Kafka"]);
        let mut own = OwnBroker { broker, folder: folder.to_owned(), child, starts: 0 };
        own.await_start();
        Some(own)
    }

    /// SIGKILL, and a start on the same data.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// The same, and nobody waits for it.
    pub fn kill_and_begin(&mut self) {
        self.kill();
        self.begin();
    }

    /// SIGKILL, and a start with the partitions of this topic as they were when `earlier` was copied, if it was; returns a
    /// copy of them as they were now.
    pub fn restart_with(&mut self, topic: &str, earlier: Option<&Path>) -> PathBuf {
        self.kill();
        let copy = self.folder.join(format!("copy-{}", self.starts));
        let logs = self.folder.join("broker");
        for entry in std::fs::read_dir(&logs).expect("the broker's data") {
            let entry = entry.expect("the broker's data");
            let name = entry.file_name().into_string().expect("text");
            if name.strip_prefix(topic).is_none_or(|rest| !rest.starts_with('-')) {
                continue;
            }
            copy_files(&entry.path(), &copy.join(&name));
            if let Some(earlier) = earlier {
                std::fs::remove_dir_all(entry.path()).expect("remove a partition");
                copy_files(&earlier.join(&name), &entry.path());
            }
        }
        self.start_again();
        copy
    }

    fn kill(&mut self) {
        self.child.kill().expect("the broker runs");
        self.child.wait().expect("wait for the broker");
    }

    fn start_again(&mut self) {
        self.begin();
        self.await_start();
    }

    fn begin(&mut self) {
        self.starts += 1;
        self.child = java(&self.folder, &format!("broker-{}", self.starts), &["kafka.Kafka"]);
    }

    /// Nothing to wait for: it runs already.
    pub fn await_start(&mut self) {
        let log = self.folder.join(format!("broker-{}.log", self.starts));
        let began = Instant::now();
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("Kafka Server started") {
            let ended = self.child.try_wait().expect("look after the broker");
            assert!(ended.is_none() && began.elapsed() < START, "the broker does not start; see {}", log.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a partition's folder") {
        let entry = entry.expect("a partition's file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy a partition's file");
    }
}

/// Kafka's main class and its arguments; the settings come last.
fn java(folder: &Path, log: &str, arguments: &[&str]) -> Child {
    let libraries = std::env::var("WEIR_TEST_KAFKA_LIBRARIES").expect("set beside WEIR_TEST_KAFKA_PROPERTIES");
    let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/servers/kafka/log4j2.properties");
    let output = || File::options().create(true).append(true).open(folder.join(format!("{log}.log"))).expect("a log");
    let mut command = Command::new("java");
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    // Whose signatures a broker verifies, if its settings name them.
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{}/jwks.json", folder.display()));
    command.args(["-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &format!("{libraries}/*")]);
    command.args(arguments).arg(folder.join("server.properties"));
    command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().expect("start Java")
}

/// Free at this moment.
fn free_ports(names: &[&str]) -> BTreeMap<String, u16> {
    let listeners: Vec<TcpListener> = names.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("a port").port();
    names.iter().map(|name| (*name).to_owned()).zip(listeners.iter().map(port)).collect()
}
