//! Jobs that read once, from a table of PostgreSQL, what they would have made themselves.

use super::Scratch;
use super::inputs::{Prefilled, read_from, rows_of};
use super::postgres::Postgres;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// So few rows in a page that the table has several ranges of pages.
const STORAGE: &str = "fillfactor = 10";
const PADDING: usize = 100;
/// What the way lets through in a second, of each connection: the rows of a job take it some three seconds.
const CHUNKS_PER_SECOND: u32 = 100;
const CHUNK: usize = 20_000;

/// A server of a test's own, once it is needed.
#[derive(Default)]
pub struct Tables {
    server: OnceLock<Option<Postgres>>,
    slow_port: OnceLock<u16>,
    filled: Prefilled,
}

impl Tables {
    /// Lets the job's first source, a generator, be a table with the same rows, in their order.
    ///
    /// False: there is no PostgreSQL.
    pub fn read_from_table(&self, job: &Path) -> bool {
        let Some(postgres) = self.server.get_or_init(Postgres::start) else { return false };
        let slow_port = self.slow_port.get_or_init(|| slow_way_to(postgres.port()));
        read_from(job, "postgres", |source| {
            let table = self.filled.of(source, || {
                let table = format!("generated_{:08x}", rand::random::<u32>());
                fill(postgres, &table, source);
                table
            });
            let url = format!("{}?sslmode=disable", postgres.url_by(*slow_port));
            json!({"url": {"value": url}, "table": table, "bounded": true})
        });
        true
    }
}

fn fill(postgres: &Postgres, table: &str, source: &Value) {
    let scratch = Scratch::new(&format!("fill-{table}"));
    let lines: String = rows_of(source).iter().map(|(_, line)| format!("{line}\n")).collect();
    let file = scratch.write("lines", lines);
    let columns: Vec<(&str, &str)> = source["schema"].as_array().expect("columns").iter().map(column).collect();
    let declared: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let read: Vec<String> = columns.iter().map(|(name, kind)| format!("(line::jsonb ->> '{name}')::{kind}")).collect();
    let lines = format!("{table}_lines");
    postgres.psql(&format!(
        "CREATE UNLOGGED TABLE {table} ({}, padding text) WITH ({STORAGE}); \
         CREATE UNLOGGED TABLE {lines} (line text)",
        declared.join(", ")
    ));
    // Bytes that no line has: each is one column as it stands.
    postgres
        .psql(&format!(r"\copy {lines} FROM '{}' WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')", file.display()));
    postgres.psql(&format!(
        "INSERT INTO {table} SELECT {}, repeat('x', {PADDING}) FROM {lines} ORDER BY (line::jsonb ->> 'id')::bigint; \
         DROP TABLE {lines}",
        read.join(", ")
    ));
}

fn column(declared: &Value) -> (&str, &str) {
    let text = |field: &str| declared[field].as_str().expect("a text");
    let kind = match text("type") {
        "TIMESTAMP" => "timestamptz",
        "VARCHAR" => "text",
        kind => kind,
    };
    (text("name"), kind)
}

/// A port of loopback that passes on to another one; what comes from there comes slowly. Ends with the test's process.
fn slow_way_to(port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let own_port = listener.local_addr().expect("a listener has an address").port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who goes away is no failure of the way.
            let pass_on = move || -> io::Result<()> {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Write);
                });
                let sent = send_slowly(&server, &client);
                let _ = client.shutdown(Shutdown::Both);
                sent
            };
            std::thread::spawn(pass_on);
        }
    });
    own_port
}

fn send_slowly(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..read])?;
        if read > CHUNK / 2 {
            std::thread::sleep(Duration::from_secs(1) / CHUNKS_PER_SECOND);
        }
    }
}
