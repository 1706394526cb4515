//! An Iceberg REST catalog of a test's own, which it may kill, and a way to it on which answers get lost.

use crate::support::{await_condition, signal};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const LIBRARIES: &str = "WEIR_TEST_ICEBERG_LIBRARIES";
const STORE: &str = "WEIR_TEST_S3";
const BUCKET: &str = "weir-test";

/// Killed when it goes out of scope.
pub struct Catalog {
    libraries: PathBuf,
    folder: PathBuf,
    port: u16,
    pub store: String,
    warehouse: String,
    server: Option<Child>,
}

impl Catalog {
    /// Its data goes into the folder. None, said on standard error: it can't be had here.
    pub fn start(folder: &Path) -> Option<Self> {
        let (libraries, store) = Self::installed()?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let warehouse =
            format!("s3://{BUCKET}/iceberg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut catalog =
            Catalog { libraries, folder: folder.to_owned(), port: free_port(), store, warehouse, server: None };
        catalog.run();
        Some(catalog)
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

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As kill -9 does it.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal(server.id() as i32, libc::SIGKILL);
            server.wait().expect("wait for the catalog");
        }
    }

    /// On the same port, with what it had.
    pub fn run(&mut self) {
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
        let mut client = Command::new(python);
        client.arg("-B").arg(script).args([command, &self.uri(), &self.store, table]).args(more);
        client
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("find a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// Passes requests on to a catalog, and loses the answer to some of its commits.
pub struct LossyWay {
    pub uri: String,
    pub lost: Arc<AtomicU32>,
}

impl LossyWay {
    /// Of the answers to commits every `nth` is lost.
    pub fn to(catalog: &Catalog, nth: u32) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let uri = format!("http://{}", listener.local_addr().expect("a listener has an address"));
        let (lost, commits, port) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), catalog.port());
        let counted = Arc::clone(&lost);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (lost, commits) = (Arc::clone(&counted), Arc::clone(&commits));
                std::thread::spawn(move || {
                    // Who goes away is no failure of the way.
                    let _ = pass_on(client, port, nth, &commits, &lost);
                });
            }
        });
        LossyWay { uri, lost }
    }
}

/// One request, with its whole answer or none.
fn pass_on(mut client: TcpStream, port: u16, nth: u32, commits: &AtomicU32, lost: &AtomicU32) -> std::io::Result<()> {
    let (head, body) = message(&mut client)?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let kept = head.trim_end().lines().filter(|line| !line.to_lowercase().starts_with("connection:"));
    let head: String = kept.chain(["Connection: close", ""]).map(|line| format!("{line}\r\n")).collect();
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = vec![];
    server.read_to_end(&mut answer)?;
    let is_commit = String::from_utf8_lossy(&body).contains("add-snapshot");
    if is_commit && (commits.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(nth) {
        lost.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    client.write_all(&answer)
}

/// Head, with the empty line, and body.
fn message(stream: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}
