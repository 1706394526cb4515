//! A server from its start to its end.

use super::{ACCESS_KEY, BUCKET, Lifetime, Server, install, kafka, postgres};
use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{cannot_start, create_folder, exit_failure, say};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The slowest, HDFS, takes a quarter of a minute on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the log, in messages.
const SHOWN_BYTES: usize = 2_000;

/// Killed when it goes out of scope.
pub struct Running {
    server: Server,
    pub port: u16,
    child: Child,
    log: PathBuf,
    /// What runs it, and where its data is.
    program: PathBuf,
    data: PathBuf,
}

impl Running {
    /// Installs it if need be, starts it with its data in `folder`, and waits until it answers.
    pub fn start(layout: &Layout, server: Server, folder: &Path) -> Result<Self> {
        Self::start_on(free_port()?, layout, server, folder, Lifetime::OneTestRun, None)
    }

    /// As `start`, for whoever has more to ask of it than a test has.
    pub fn start_to_last(layout: &Layout, server: Server, folder: &Path) -> Result<Self> {
        Self::start_on(free_port()?, layout, server, folder, Lifetime::Long, None)
    }

    /// As `start`, on the port that clients of such a server expect if nobody has that. `store`: the endpoint of the one
    /// that a catalog's tables stand in.
    pub fn start_on_usual_port(layout: &Layout, server: Server, folder: &Path, store: Option<&str>) -> Result<Self> {
        let usual = server.usual_port().filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        Self::start_on(usual.map_or_else(free_port, Ok)?, layout, server, folder, Lifetime::Long, store)
    }

    fn start_on(
        port: u16,
        layout: &Layout,
        server: Server,
        folder: &Path,
        lifetime: Lifetime,
        store: Option<&str>,
    ) -> Result<Self> {
        let program = install::ensure(layout, server)?;
        let data = folder.join("data");
        create_folder(&data)?;
        let mut command = command(layout, server, &program, &data, port, lifetime, store)?;
        let log = folder.join("log");
        let stream = || File::create(&log).map_err(Failure::io(format!("create {}", log.display())));
        command
            .stdin(Stdio::null())
            .stdout(stream()?)
            .stderr(File::options().append(true).open(&log).map_err(Failure::io(format!("open {}", log.display())))?);
        let child = command.spawn().map_err(|error| cannot_start(&command, &error))?;
        let mut running = Running { server, port, child, log, program, data };
        running.await_ready()?;
        if server == Server::S3Light {
            // The others take a folder for a bucket, or get theirs from who is authorised.
            request(port, "PUT", &format!("/{BUCKET}"));
        }
        say(&format!("{} answers on port {port}", server.name()));
        Ok(running)
    }

    /// Tells a command where the server is.
    pub fn announce(&self, command: &mut Command) {
        command.env(self.server.variable(), self.server.endpoint(self.port));
        if self.server == Server::Kafka {
            // For a broker of a test's own, which it may kill.
            command.env("WEIR_TEST_KAFKA_LIBRARIES", &self.program);
            command.env("WEIR_TEST_KAFKA_PROPERTIES", self.data.join(kafka::PROPERTIES));
        }
    }

    /// Until it ends by itself, or is interrupted together with this process.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait().map_err(Failure::io("wait for the server"))?;
        exit_failure(status).map_or(Ok(()), Err)
    }

    fn await_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if self.is_ready() {
                return Ok(());
            }
            if self.child.try_wait().map_err(Failure::io("look after the server"))?.is_some() {
                return Err(self.failed("ended"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(self.failed("does not answer"))
    }

    fn is_ready(&self) -> bool {
        match self.server {
            Server::Kafka => self.log_text().contains("Kafka Server started"),
            Server::Hdfs | Server::Iceberg => self.log_text().lines().any(|line| line == "ready"),
            Server::S3 => request(self.port, "GET", "/minio/health/ready") == Some(200),
            Server::Postgres => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
            _ => request(self.port, "GET", "/").is_some(),
        }
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn failed(&self, what: &str) -> Failure {
        let log = self.log_text();
        let tail = log.char_indices().rev().nth(SHOWN_BYTES).map_or(log.as_str(), |(from, _)| &log[from..]);
        Failure::new(format!("the server {} {what}. The end of its log:\n{tail}", self.server.name()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(
    layout: &Layout,
    server: Server,
    program: &Path,
    data: &Path,
    port: u16,
    lifetime: Lifetime,
    store: Option<&str>,
) -> Result<Command> {
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(program);
    match server {
        Server::S3 => {
            // A folder at the top is a bucket.
            create_folder(&data.join(BUCKET))?;
            command.args(["server", "--quiet", "--address", &address]).arg(data);
            command.env("MINIO_ROOT_USER", ACCESS_KEY.0).env("MINIO_ROOT_PASSWORD", ACCESS_KEY.1);
            // No console, and nothing that calls home.
            command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("MINIO_CALLHOME_ENABLE", "off");
        }
        Server::S3Light => {
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        }
        Server::Gcs => {
            command.args(["-address", &address, "-bucket", BUCKET]);
        }
        Server::Azure => {
            // Without the first flag it sends usage data to its maker.
            command.args(["--disableTelemetry", "--silent", "--skipApiVersionCheck"]);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]).arg(data);
        }
        Server::Hdfs => {
            command = Command::new("java");
            command.args(["-Xmx512m", "-cp"]).arg(program.join("*"));
            command.arg(layout.checkout.join("tools/servers/hdfs/MiniCluster.java")).arg(data).arg(port.to_string());
        }
        Server::Kafka => {
            // Next to the other one, so that it is the same when that is.
            let next = port.checked_add(1).filter(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, *next)).is_ok());
            let controller_port = next.map_or_else(free_port, Ok)?;
            return kafka::command(layout, program, data, port, controller_port, lifetime);
        }
        Server::Postgres => command = postgres::command(program, data, port)?,
        Server::Kinesis => {
            command = Command::new("node");
            command.arg(layout.checkout.join("tools/servers/kinesis/server.js")).arg(program).arg(port.to_string());
        }
        Server::Iceberg => {
            let store = store.ok_or_else(|| Failure::new("an Iceberg catalog needs a store beside it"))?;
            command = Command::new("java");
            command.args(["-Xmx256m", "-cp"]).arg(program.join("*"));
            command.arg(layout.checkout.join("tools/servers/iceberg/IcebergCatalog.java")).arg(port.to_string());
            command.arg(data.join("catalog.db")).arg(format!("s3://{BUCKET}/iceberg")).arg(store);
        }
    }
    Ok(command)
}

/// Free at this moment; taken by the server right after.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Failure::io("find a free port"))?;
    Ok(listener.local_addr().map_err(Failure::io("find a free port"))?.port())
}

/// The status of the answer to a request without a body. `None`: nobody answers.
fn request(port: u16, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(READ_TIMEOUT)).ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    // "HTTP/1.1 200"
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
