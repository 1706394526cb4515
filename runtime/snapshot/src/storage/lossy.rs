//! A proxy that loses answers: for tests of what a storage makes of a write that happened and wasn't confirmed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The first bytes of a request, for telling what it is.
const HEAD_BYTES: usize = 16 << 10;

/// Passes plain HTTP on to a server. Its requests go on as they are; armed, it waits for the server's answer to a
/// matching request and closes the connection instead of passing it on.
pub struct LossyProxy {
    address: SocketAddr,
    /// Answers still to be lost.
    armed: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    accepts: JoinHandle<()>,
}

impl LossyProxy {
    /// `server`: `host:port`. Loses answers to requests whose head holds all of `needles`, whatever their case.
    pub async fn start(server: &str, needles: &[&str]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (armed, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let rules = Rules {
            server: server.to_owned(),
            needles: needles.iter().map(|needle| needle.to_lowercase()).collect(),
            armed: Arc::clone(&armed),
            lost: Arc::clone(&lost),
        };
        let rules = Arc::new(rules);
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let rules = Arc::clone(&rules);
                tokio::spawn(async move {
                    // Either side may hang up at any time; the other one then sees it.
                    let _ = rules.pass(client).await;
                });
            }
        });
        Ok(LossyProxy { address, armed, lost, accepts })
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Loses the next `answers` answers.
    pub fn arm(&self, answers: u64) {
        self.armed.store(answers, Ordering::SeqCst);
    }

    /// Answers lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

struct Rules {
    server: String,
    needles: Vec<String>,
    armed: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

impl Rules {
    async fn pass(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(&self.server).await?;
        let (mut from_client, mut from_server) = (vec![0; HEAD_BYTES], vec![0; HEAD_BYTES]);
        let mut loses = false;
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    loses |= self.takes(&from_client[..read]);
                    server.write_all(&from_client[..read]).await?;
                }
                read = server.read(&mut from_server) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    // What is asked before the body is sent isn't the answer.
                    if loses && !from_server[..read].starts_with(b"HTTP/1.1 100") {
                        self.lost.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    client.write_all(&from_server[..read]).await?;
                }
            }
        }
    }

    /// Whether the answer to what begins here is to be lost.
    fn takes(&self, head: &[u8]) -> bool {
        let head = String::from_utf8_lossy(head).to_lowercase();
        let matches = self.needles.iter().all(|needle| head.contains(needle));
        let take = |armed: u64| armed.checked_sub(1);
        matches && self.armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }
}
