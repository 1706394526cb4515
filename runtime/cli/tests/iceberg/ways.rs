//! Ways to a catalog on which commits meet their fate.

use super::Catalog;
use crate::support::postgres::Postgres;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How a commit begins, in PostgreSQL's protocol.
const SWAP: &[u8] = b"UPDATE iceberg_tables";

/// Passes requests on to a REST catalog, and loses the answer to some of its commits.
pub struct LossyWay {
    pub uri: String,
    pub lost: Arc<AtomicU32>,
}

impl LossyWay {
    /// Of the answers to commits every `nth` is lost.
    pub fn to(catalog: &Catalog, nth: u32) -> Self {
        let (lost, commits, port) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), catalog.rest_port());
        let counted = Arc::clone(&lost);
        let own_port = listen(move |client| {
            // Who goes away is no failure of the way.
            let _ = pass_on(client, port, nth, &commits, &counted);
        });
        LossyWay { uri: format!("http://127.0.0.1:{own_port}"), lost }
    }
}

/// What becomes of a swap in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server never sees it, and the client hears nothing.
    Held,
    /// It happens, and the client hears nothing.
    HeldAnswer,
    /// It happens, and the connection ends without an answer.
    LostAnswer,
}

/// Passes on to PostgreSQL; some swaps meet their fate.
pub struct SwapWay {
    pub url: String,
    met: Arc<AtomicU32>,
}

impl SwapWay {
    /// Every `nth` swap; only one, if it is held.
    pub fn to(postgres: &Postgres, fate: Fate, nth: u32) -> Self {
        let (met, swaps, port) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), postgres.port());
        let counted = Arc::clone(&met);
        let own_port = listen(move |client| {
            let _ = pass_swaps_on(client, port, fate, nth, &swaps, &counted);
        });
        SwapWay { url: format!("{}?sslmode=disable", postgres.url_by(own_port)), met }
    }

    /// How many have met it.
    pub fn met(&self) -> u32 {
        self.met.load(Ordering::SeqCst)
    }
}

/// A thread for each client; ends with the test's process.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let port = listener.local_addr().expect("a listener has an address").port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(client));
        }
    });
    port
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

/// A connection, for as long as both ends keep it.
fn pass_swaps_on(
    mut client: TcpStream,
    port: u16,
    fate: Fate,
    nth: u32,
    swaps: &AtomicU32,
    met: &Arc<AtomicU32>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let is_waited_for = Arc::new(AtomicBool::new(false));
    let answers = (server.try_clone()?, client.try_clone()?, Arc::clone(&is_waited_for), Arc::clone(met));
    std::thread::spawn(move || {
        let (server, client, is_waited_for, met) = answers;
        let _ = pass_answers_on(&server, &client, fate, &is_waited_for, &met);
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
    let mut buffer = [0; 16 << 10];
    loop {
        let length = client.read(&mut buffer)?;
        let sent = &buffer[..length];
        if length == 0 {
            return server.shutdown(Shutdown::Both);
        }
        // A statement goes out in one piece: text, parameters and all.
        if sent.windows(SWAP.len()).any(|window| window == SWAP) {
            let number = swaps.fetch_add(1, Ordering::SeqCst) + 1;
            match fate {
                Fate::Held if number == nth => {
                    met.fetch_add(1, Ordering::SeqCst);
                    // Until the client goes.
                    while client.read(&mut buffer)? > 0 {}
                    return server.shutdown(Shutdown::Both);
                }
                Fate::HeldAnswer if number == nth => is_waited_for.store(true, Ordering::SeqCst),
                Fate::LostAnswer if number.is_multiple_of(nth) => is_waited_for.store(true, Ordering::SeqCst),
                _ => {}
            }
        }
        server.write_all(sent)?;
    }
}

fn pass_answers_on(
    mut server: &TcpStream,
    mut client: &TcpStream,
    fate: Fate,
    is_waited_for: &AtomicBool,
    met: &AtomicU32,
) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = server.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        // Nothing else was under way, and the server answers after it has committed.
        if !is_waited_for.load(Ordering::SeqCst) {
            client.write_all(&buffer[..length])?;
            continue;
        }
        met.fetch_add(1, Ordering::SeqCst);
        if fate == Fate::LostAnswer {
            return Ok(());
        }
        while server.read(&mut buffer)? > 0 {}
        return Ok(());
    }
}
