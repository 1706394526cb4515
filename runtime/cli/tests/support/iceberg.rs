//! A catalog of a test's own, which it may kill.

use super::postgres::Postgres;
use super::s3::{BUCKET, VARIABLE as STORE, storage};
use super::{await_condition, signal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const LIBRARIES: &str = "WEIR_TEST_ICEBERG_LIBRARIES";

/// Ends when it goes out of scope.
pub struct Catalog {
    store: String,
    warehouse: String,
    server: Server,
}

enum Server {
    Rest(Rest),
    Sql(Postgres),
}

/// Which catalog, and where the tables' files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Iceberg's own, with its tables in the store.
    Rest,
    /// In PostgreSQL, with tables in the store.
    SqlInStore,
    /// In PostgreSQL, with tables in a folder.
    SqlInFolder,
}

impl Catalog {
    /// Its data goes into the folder. None, said on standard error: it can't be had here.
    pub fn start(kind: Kind, folder: &Path) -> Option<Self> {
        let (libraries, store) = Self::installed()?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let warehouse = match kind {
            Kind::Rest | Kind::SqlInStore => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                format!("s3://{BUCKET}/iceberg-{}-{number}", std::process::id())
            }
            Kind::SqlInFolder => format!("file://{}", folder.join("warehouse").display()),
        };
        let server = match kind {
            Kind::Rest => Server::Rest(Rest::start(libraries, folder, &warehouse, &store)),
            Kind::SqlInStore | Kind::SqlInFolder => Server::Sql(Postgres::start()?),
        };
        Some(Catalog { store, warehouse, server })
    }

    pub fn is_installed() -> bool {
        Self::installed().is_some()
    }

    fn installed() -> Option<(PathBuf, String)> {
        let (Ok(libraries), Ok(store)) = (std::env::var(LIBRARIES), std::env::var(STORE)) else {
            eprintln!(
                "skipped: {LIBRARIES} and {STORE} name no Iceberg catalog and no store; `cargo xtask test` brings them"
            );
            return None;
        };
        Some((PathBuf::from(libraries), store))
    }

    /// As kill -9 does it, and up again with what it had.
    pub fn crash(&mut self) {
        match &mut self.server {
            Server::Rest(rest) => {
                rest.kill();
                rest.run();
            }
            Server::Sql(postgres) => postgres.crash(),
        }
    }

    /// What a sink says that creates a table and writes to it.
    pub fn sink(&self, table: &str) -> Value {
        let catalog = match &self.server {
            Server::Rest(rest) => json!({"rest": {"uri": rest.uri()}}),
            Server::Sql(postgres) => {
                json!({"sql": {"url": {"value": postgres.url()}, "name": "test", "warehouse": self.warehouse}})
            }
        };
        let mut settings = json!({"catalog": catalog, "table": table, "createTable": {}});
        if !self.warehouse.starts_with("file:") {
            settings["storage"] = storage(&self.store);
        }
        settings
    }

    pub fn rest_port(&self) -> u16 {
        match &self.server {
            Server::Rest(rest) => rest.port,
            Server::Sql(_) => panic!("this catalog speaks no REST"),
        }
    }

    /// None: the catalog is not in SQL.
    pub fn postgres(&self) -> Option<&Postgres> {
        match &self.server {
            Server::Rest(_) => None,
            Server::Sql(postgres) => Some(postgres),
        }
    }

    /// The tables of a namespace and their records, as Iceberg's own catalog in a database has them; each of them gets a
    /// property.
    pub fn tables_of_java(&self, namespace: &str, property: &str) -> BTreeMap<String, usize> {
        let postgres = self.postgres().expect("it is in SQL");
        let (libraries, store) = Self::installed().expect("the catalog was started");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/servers/iceberg/JdbcTables.java");
        let database = format!("//127.0.0.1:{}/postgres", postgres.port());
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"]).arg(libraries.join("*")).arg(program);
        command.args([&database, "test", "test", &self.warehouse, &store, namespace, property]);
        let output = command.output().expect("start java");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let table = |line: &str| {
            let (name, records) = line.split_once('\t').expect("two columns");
            (name.to_owned(), records.parse().expect("a number"))
        };
        text.lines().map(table).collect()
    }

    /// Runs iceberg.py, the client that is not ours.
    pub fn client(&self, command: &str, table: &str, more: &[&str]) -> Result<String, String> {
        let output = self.client_command(command, table, more).output().expect("start Python");
        if !output.status.success() {
            return Err(format!("iceberg.py {command} {table}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn client_command(&self, command: &str, table: &str, more: &[&str]) -> Command {
        let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set where the catalog is");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/iceberg.py");
        let mut properties = match &self.server {
            Server::Rest(rest) => json!({"type": "rest", "uri": rest.uri()}),
            Server::Sql(postgres) => {
                let uri = postgres.url().replace("postgres://", "postgresql+psycopg2://");
                json!({"type": "sql", "uri": uri, "warehouse": self.warehouse})
            }
        };
        for (name, value) in [
            ("py-io-impl", "pyiceberg.io.pyarrow.PyArrowFileIO"),
            ("s3.endpoint", &self.store),
            ("s3.access-key-id", "testkey"),
            ("s3.secret-access-key", "testsecret"),
            ("s3.region", "us-east-1"),
        ] {
            properties[name] = json!(value);
        }
        let mut client = Command::new(python);
        client.arg("-B").arg(script).args([command, &properties.to_string(), table]).args(more);
        client
    }
}

/// Iceberg's REST catalog, a process in Java.
struct Rest {
    libraries: PathBuf,
    folder: PathBuf,
    port: u16,
    warehouse: String,
    store: String,
    server: Option<Child>,
}

impl Rest {
    fn start(libraries: PathBuf, folder: &Path, warehouse: &str, store: &str) -> Self {
        let (folder, warehouse, store) = (folder.to_owned(), warehouse.to_owned(), store.to_owned());
        let mut rest = Rest { libraries, folder, port: free_port(), warehouse, store, server: None };
        rest.run();
        rest
    }

    fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(server.id() as i32, libc::SIGKILL);
            server.wait().expect("wait for the catalog");
        }
    }

    /// On the same port, with what it had.
    fn run(&mut self) {
        let log = self.folder.join("catalog.log");
        let opened = || std::fs::File::options().create(true).append(true).open(&log).expect("open the catalog's log");
        let before = std::fs::metadata(&log).map_or(0, |log| log.len() as usize);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/servers/iceberg/IcebergCatalog.java");
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(self.libraries.join("*"));
        command.arg(program).arg(self.port.to_string()).arg(self.folder.join("catalog.db"));
        command.args([&self.warehouse, &self.store]);
        let server = command.stdin(Stdio::null()).stdout(opened()).stderr(opened()).spawn().expect("start java");
        self.server = Some(server);
        await_condition("the catalog answers", || {
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text[before.min(text.len())..]).into_owned();
            let server = self.server.as_mut().expect("started above");
            let ended = server.try_wait().expect("look after the catalog");
            assert!(ended.is_none(), "the catalog ended: {text}");
            text.lines().any(|line| line == "ready").then_some(())
        });
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("find a free port");
    listener.local_addr().expect("a listener has an address").port()
}
