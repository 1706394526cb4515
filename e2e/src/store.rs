//! An S3 server as pods see it, that can be made to refuse or to be slow: a proxy before the real one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where the real server is: `cargo xtask e2e` starts one.
const SERVER: &str = "WEIR_TEST_S3";
/// The address of this machine that pods reach: of a cluster on this machine.
const NODE: &str = "WEIR_E2E_NODE";
/// A request's head is never longer.
const HEAD_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Fine,
    /// Every request is answered with 503.
    Refuses,
    /// Whatever would write a savepoint is.
    RefusesSavepoints,
    /// Every request waits before it is passed on.
    Slow(Duration),
}

/// Serves until the process ends.
pub struct Store {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
}

impl Store {
    /// `None`: there is no server, or pods would not reach it, which has been said.
    pub fn start(test: &str) -> Option<Store> {
        let (Ok(server), Ok(node)) = (std::env::var(SERVER), std::env::var(NODE)) else {
            eprintln!("{test}: skipped; it takes a cluster on this machine (`cargo xtask e2e` without KUBECONFIG)");
            return None;
        };
        let server = server.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind((node.as_str(), 0)).expect("the node's address is this machine's");
        let address = listener.local_addr().expect("it is bound");
        let mood = Arc::new(Mutex::new(Mood::Fine));
        let current = Arc::clone(&mood);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, mood) = (server.clone(), Arc::clone(&current));
                std::thread::spawn(move || pass(client, &server, &mood));
            }
        });
        Some(Store { address, mood })
    }

    pub fn becomes(&self, mood: Mood) {
        eprintln!("the store: {mood:?}");
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// As `checkpoint.storage` of a job, and the Secret that it names.
    pub fn of_job(&self, folder: &str) -> (String, String) {
        let storage = format!(
            "{{uri: \"s3://weir-test/{folder}\", endpoint: \"http://{}\", region: us-east-1, credentials: {{secretRef: {{name: s3}}}}}}",
            self.address
        );
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\n\
                      stringData: {accessKeyId: testkey, secretAccessKey: testsecret}\n";
        (storage, secret.to_owned())
    }
}

/// One request: the next one comes with a connection of its own, and is judged by itself.
fn pass(mut client: TcpStream, server: &str, mood: &Mutex<Mood>) -> Option<()> {
    let mut head = Vec::new();
    let end = loop {
        let mut buffer = [0; 4096];
        let read = client.read(&mut buffer).ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        (head.len() < HEAD_BYTES).then_some(())?;
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let (first, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
    let writes_savepoint = first.contains("savepoint") && !first.starts_with("GET") && !first.starts_with("HEAD");
    let now = *mood.lock().unwrap_or_else(PoisonError::into_inner);
    match now {
        Mood::Refuses => return refuse(client),
        Mood::RefusesSavepoints if writes_savepoint => return refuse(client),
        Mood::Slow(delay) => std::thread::sleep(delay),
        Mood::Fine | Mood::RefusesSavepoints => {}
    }
    let mut upstream = TcpStream::connect(server).ok()?;
    let kept = fields.split("\r\n").filter(|field| !field.to_ascii_lowercase().starts_with("connection:"));
    let kept: Vec<&str> = kept.collect();
    let request = format!("{first}\r\n{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    upstream.write_all(request.as_bytes()).ok()?;
    upstream.write_all(&head[end + 4..]).ok()?;
    let (mut body, mut to) = (client.try_clone().ok()?, upstream.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut body, &mut to));
    std::io::copy(&mut upstream, &mut client).ok()?;
    client.shutdown(std::net::Shutdown::Both).ok()
}

fn refuse(mut client: TcpStream) -> Option<()> {
    let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(answer.as_bytes()).ok()?;
    // What it still sends is read: else it hears of a broken connection before it hears the answer.
    client.shutdown(std::net::Shutdown::Write).ok()?;
    client.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    std::io::copy(&mut client, &mut std::io::sink()).ok().map(drop)
}
