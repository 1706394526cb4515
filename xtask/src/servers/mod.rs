//! Real stores and brokers on this machine: what tests run against, and what a user can try a job with.
//!
//! Each is installed into the cache by its own ecosystem's ordinary tool, listens on the loopback interface only, on a
//! port that is free, and ends with this process.

mod install;
mod kafka;
mod postgres;
mod running;

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::say;
use std::path::Path;
use std::process::Command;

pub use postgres::ensure_for_tests as ensure_postgres_for_tests;
pub use running::Running;

/// The bucket, or what its store calls so, that every server has from its start.
pub const BUCKET: &str = "weir-test";
/// Of the S3 servers; nothing secret.
const ACCESS_KEY: (&str, &str) = ("testkey", "testsecret");
/// The account that every Azurite has, with its published key.
const AZURE_ACCOUNT: &str = "devstoreaccount1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// MinIO: durable, quick, and five minutes to build once.
    S3,
    /// moto: in memory, and installed in half a minute.
    S3Light,
    /// fake-gcs-server with a part of the XML API before it (`tools/servers/gcs`): in memory.
    Gcs,
    Azure,
    Hdfs,
    Kafka,
    /// For the connectors; not a store. Its tests start servers of their own.
    Postgres,
    /// kinesalite: in memory. For the connector; not a store.
    Kinesis,
    /// A catalog, for the connector; its tests start their own. Its tables stand in a store beside it, s3-light.
    Iceberg,
}

/// What a server is compiled and tuned for, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Up quickly.
    OneTestRun,
    /// As its makers would run it.
    Long,
}

impl Server {
    pub const ALL: [Server; 9] = [
        Server::S3,
        Server::S3Light,
        Server::Gcs,
        Server::Azure,
        Server::Hdfs,
        Server::Kafka,
        Server::Postgres,
        Server::Kinesis,
        Server::Iceberg,
    ];
    /// Those that checkpoints can stand on.
    pub const STORES: [Server; 5] = [Server::S3, Server::S3Light, Server::Gcs, Server::Azure, Server::Hdfs];

    pub fn name(self) -> &'static str {
        match self {
            Server::S3 => "s3",
            Server::S3Light => "s3-light",
            Server::Gcs => "gcs",
            Server::Azure => "azure",
            Server::Hdfs => "hdfs",
            Server::Kafka => "kafka",
            Server::Postgres => "postgres",
            Server::Kinesis => "kinesis",
            Server::Iceberg => "iceberg",
        }
    }

    pub fn named(name: &str) -> Result<Server> {
        Server::ALL.into_iter().find(|server| server.name() == name).ok_or_else(|| {
            let all = Server::ALL.map(Server::name).join(", ");
            Failure::new(format!("there is no server `{name}`; there are {all}"))
        })
    }

    fn store(name: &str) -> Result<Server> {
        let found = Server::STORES.into_iter().find(|server| server.name() == name);
        found.ok_or_else(|| {
            let all = Server::STORES.map(Server::name).join(", ");
            Failure::new(format!("there is no store `{name}`; there are {all}"))
        })
    }

    /// Where tests look for it.
    pub fn variable(self) -> &'static str {
        match self {
            Server::S3 | Server::S3Light => "WEIR_TEST_S3",
            Server::Gcs => "WEIR_TEST_GCS",
            Server::Azure => "WEIR_TEST_AZURE",
            Server::Hdfs => "WEIR_TEST_HDFS",
            Server::Kafka => "WEIR_TEST_KAFKA",
            Server::Postgres => "WEIR_TEST_POSTGRES",
            Server::Kinesis => "WEIR_TEST_KINESIS",
            Server::Iceberg => "WEIR_TEST_ICEBERG",
        }
    }

    fn usual_port(self) -> Option<u16> {
        match self {
            Server::Kafka => Some(9092),
            Server::Kinesis => Some(4567),
            Server::Iceberg => Some(8181),
            _ => None,
        }
    }

    /// The value of that variable.
    pub fn endpoint(self, port: u16) -> String {
        match self {
            Server::Hdfs => format!("hdfs://127.0.0.1:{port}"),
            Server::Kafka => format!("127.0.0.1:{port}"),
            Server::Postgres => format!("postgres://{}@127.0.0.1:{port}/postgres", postgres::USER),
            Server::Azure => format!("http://127.0.0.1:{port}/{AZURE_ACCOUNT}"),
            _ => format!("http://127.0.0.1:{port}"),
        }
    }

    /// What a shell needs so that `weir` finds it, and an address to try.
    fn instructions(self, port: u16) -> String {
        let endpoint = self.endpoint(port);
        let (variables, uri) = match self {
            Server::Kafka => {
                return format!("bootstrapServers: {endpoint}\nTry: weir run examples/kafka/job.yaml (see its README)");
            }
            Server::Postgres => {
                return format!("postgres.url.value: {endpoint}\npsql {endpoint}");
            }
            Server::Kinesis => {
                return format!(
                    "kinesis.endpoint: {endpoint}\nexport AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
                    ACCESS_KEY.0, ACCESS_KEY.1
                );
            }
            Server::Iceberg => {
                return format!(
                    "iceberg.catalog.rest.uri: {endpoint}\nTry: weir run examples/iceberg/job.yaml (see its README)"
                );
            }
            Server::S3 | Server::S3Light => (
                format!(
                    "export AWS_ENDPOINT_URL={endpoint} AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
                    ACCESS_KEY.0, ACCESS_KEY.1
                ),
                format!("s3://{BUCKET}/weir"),
            ),
            Server::Gcs => (format!("checkpoint.storage.endpoint: {endpoint}"), format!("gs://{BUCKET}/weir")),
            Server::Azure => (
                format!(
                    "checkpoint.storage.endpoint: {endpoint}, with AZURE_STORAGE_ACCOUNT_NAME={AZURE_ACCOUNT} and its published key in AZURE_STORAGE_ACCOUNT_KEY"
                ),
                "az://CONTAINER/weir (make the container first)".to_owned(),
            ),
            Server::Hdfs => (String::new(), format!("{endpoint}/weir")),
        };
        format!("{variables}\ncheckpoint.storage.uri: {uri}")
    }
}

/// `cargo xtask server NAME`: runs it until it is interrupted. Its data stays for the next time.
pub fn foreground(layout: &Layout, arguments: &[String]) -> Result<()> {
    let [name] = arguments else {
        let all = Server::ALL.map(Server::name).join(" | ");
        return Err(Failure::new(format!("usage: cargo xtask server {all}")));
    };
    let server = Server::named(name)?;
    let data = match server {
        Server::Postgres => postgres::folder(layout)?,
        _ => layout.cache.join("servers").join(server.name()),
    };
    // Its catalog would name tables whose files went with the store, which is in memory.
    let beside = match server {
        Server::Iceberg => {
            crate::process::remove_folder(&data)?;
            let store = Running::start(layout, Server::S3Light, &data.join("store"))?;
            println!("{}", Server::S3Light.instructions(store.port));
            Some(store)
        }
        _ => None,
    };
    let store = beside.as_ref().map(|store| Server::S3Light.endpoint(store.port));
    let running = Running::start_on_usual_port(layout, server, &data, store.as_deref())?;
    println!("{}", server.instructions(running.port));
    say(&format!("{} serves; Ctrl-C ends it, its data stays in {}", server.name(), data.display()));
    running.wait()
}

/// `cargo xtask test-storage [NAME...]`: the storage tests against real servers, one after the other.
pub fn test_storage(layout: &Layout, arguments: &[String]) -> Result<()> {
    let chosen = match arguments {
        [] => Server::STORES.to_vec(),
        names => names.iter().map(|name| Server::store(name)).collect::<Result<_>>()?,
    };
    let env = crate::build_env::BuildEnv::prepare_for_tests(layout)?;
    let mut failed = Vec::new();
    for server in chosen {
        say(&format!("storage tests against {}", server.name()));
        let data = scratch(layout, server)?;
        let running = Running::start(layout, server, data.path())?;
        let mut cargo = env.cargo(&["test", "--workspace", "--no-fail-fast"]);
        cargo.args(["--test", test_target(server)]);
        if matches!(server, Server::S3 | Server::S3Light | Server::Gcs) {
            cargo.args(["--test", "storage"]);
        }
        cargo.args(["--", "--nocapture"]).current_dir(&layout.checkout);
        running.announce(&mut cargo);
        if crate::process::run(&mut cargo).is_err() {
            failed.push(server.name());
        }
    }
    if failed.is_empty() {
        say("storage tests: all stores conform");
        return Ok(());
    }
    Err(Failure::new(format!("storage tests failed against {}; their output is above", failed.join(", "))))
}

/// A server of one test run, and its data, which goes after it.
pub struct ForTests {
    running: Running,
    _data: Scratch,
}

impl ForTests {
    /// None: somebody has given the tests another one.
    fn start(layout: &Layout, server: Server) -> Result<Option<Self>> {
        if crate::layout::variable(server.variable()).is_some() {
            return Ok(None);
        }
        let data = scratch(layout, server)?;
        let running = Running::start(layout, server, data.path())?;
        Ok(Some(ForTests { running, _data: data }))
    }

    /// Tells a command where the server is.
    pub fn announce(&self, command: &mut Command) {
        self.running.announce(command);
    }
}

/// The quick S3 server.
pub fn light_for_tests(layout: &Layout) -> Result<Option<ForTests>> {
    ForTests::start(layout, Server::S3Light)
}

/// What the benchmark with Kafka needs.
pub struct ForBench {
    pub broker: ForTests,
    /// With the client that reads what the engines have written.
    pub python: std::path::PathBuf,
    /// The folder of Flink's connector. None: Flink is not measured.
    pub flink_connector: Option<std::path::PathBuf>,
}

pub fn kafka_for_bench(layout: &Layout, with_flink: bool) -> Result<ForBench> {
    let python = crate::python::ensure_oracle(layout)?;
    let flink_connector = with_flink.then(|| install::flink_kafka_connector(layout)).transpose()?;
    let data = scratch(layout, Server::Kafka)?;
    let running = Running::start_to_last(layout, Server::Kafka, data.path())?;
    Ok(ForBench { broker: ForTests { running, _data: data }, python, flink_connector })
}

/// A broker.
pub fn kafka_for_tests(layout: &Layout) -> Result<Option<ForTests>> {
    ForTests::start(layout, Server::Kafka)
}

/// Streams.
pub fn kinesis_for_tests(layout: &Layout) -> Result<Option<ForTests>> {
    ForTests::start(layout, Server::Kinesis)
}

/// Variables for tests: where the libraries of an Iceberg catalog are, which they start themselves, and where DuckDB's Iceberg
/// client is. Nothing: somebody has said that already.
pub fn iceberg_for_tests(layout: &Layout) -> Result<Vec<(&'static str, std::path::PathBuf)>> {
    const LIBRARIES: &str = "WEIR_TEST_ICEBERG_LIBRARIES";
    if crate::layout::variable(LIBRARIES).is_some() {
        return Ok(vec![]);
    }
    let mut variables = vec![(LIBRARIES, install::iceberg(layout)?)];
    match install::iceberg_duckdb(layout) {
        Ok(folder) => variables.push(("WEIR_TEST_ICEBERG_DUCKDB", folder)),
        // There are not packages of it for every machine.
        Err(_) => say("DuckDB's Iceberg client can't be had: pyiceberg alone reads the tables"),
    }
    Ok(variables)
}

fn test_target(server: Server) -> &'static str {
    match server {
        Server::S3 | Server::S3Light => "s3",
        Server::Gcs => "gcs",
        Server::Azure => "azure",
        Server::Hdfs => "hdfs",
        Server::Kafka | Server::Postgres | Server::Kinesis | Server::Iceberg => unreachable!("no store"),
    }
}

/// A folder for one run, empty.
fn scratch(layout: &Layout, server: Server) -> Result<Scratch> {
    let folder = layout.target.join("servers").join(format!("{}-{}", server.name(), std::process::id()));
    crate::process::remove_folder(&folder)?;
    crate::process::create_folder(&folder)?;
    Ok(Scratch(folder))
}

/// Removed when it goes out of scope.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = crate::process::remove_folder(&self.0);
    }
}
