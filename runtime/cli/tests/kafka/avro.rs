//! Avro messages, written by an encoder of another make: of several schemas by their numbers in a registry, and of one.
//!
//! The registry is a stand-in: the two questions that are asked of one, answered over HTTP.

use crate::broker::Broker;
use crate::support::{Scratch, Weir};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// `weir:secret` as HTTP has it.
const AUTHORIZATION: &str = "authorization: Basic d2VpcjpzZWNyZXQ=";

/// Schemas by number. Its thread ends with the process.
struct Registry {
    url: String,
}

impl Registry {
    fn start(schemas: BTreeMap<u32, Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let schemas = Arc::new(schemas);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let schemas = Arc::clone(&schemas);
                std::thread::spawn(move || answer(stream, &schemas));
            }
        });
        Registry { url }
    }
}

/// Questions of one connection until it is closed.
fn answer(stream: TcpStream, schemas: &BTreeMap<u32, Value>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut stream = stream;
    loop {
        let question = lines.next()?.ok()?;
        let mut is_authorized = false;
        for header in lines.by_ref() {
            let header = header.ok()?;
            if header.is_empty() {
                break;
            }
            is_authorized |= header.eq_ignore_ascii_case(AUTHORIZATION);
        }
        let path = question.split(' ').nth(1)?;
        let number = path.strip_prefix("/schemas/ids/").and_then(|number| number.parse().ok());
        let (status, body) = match number.map(|number: u32| schemas.get(&number)) {
            _ if !is_authorized => ("401 Unauthorized", json!({"error_code": 401})),
            Some(Some(schema)) => ("200 OK", json!({"schema": schema.to_string()})),
            Some(None) => ("404 Not Found", json!({"error_code": 40403})),
            None if path == "/subjects" => ("200 OK", json!([])),
            None => ("400 Bad Request", json!({})),
        };
        let body = body.to_string();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

#[test]
fn avro_of_a_registry_and_of_one_schema() {
    let Some(broker) = Broker::of_tests() else { return };
    let record = |fields: Value| json!({"type": "record", "name": "Order", "fields": fields});
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2});
    let first = record(json!([{"name": "id", "type": "int"}, {"name": "note", "type": ["null", "string"]}]));
    // Widened, one removed, some added.
    let second = record(json!([
        {"name": "unknown", "type": {"type": "map", "values": "double"}},
        {"name": "id", "type": "long"},
        {"name": "ratio", "type": "float"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ]));
    let registry = Registry::start(BTreeMap::from([(1, first.clone()), (20_000, second.clone())]));
    let only = record(json!([{"name": "id", "type": "long"}, {"name": "price", "type": decimal}]));
    let scratch = Scratch::new("kafka-avro");
    let name = format!("avro-{:08x}", rand::random::<u32>());
    let topic = |of: &str| format!("{name}-{of}");
    ["many", "one", "out"].iter().for_each(|of| broker.create(&topic(of), 1));
    broker.put_avro(
        &scratch,
        &topic("many"),
        &[
            (Some(1), &first, json!({"id": 1, "note": "a"})),
            (
                Some(20_000),
                &second,
                json!({"unknown": {"x": 0.5}, "id": 1_u64 << 40, "ratio": 0.25, "tags": ["t", "u"]}),
            ),
            (Some(1), &first, json!({"id": 2, "note": null})),
            // Of a schema that nobody knows, and of none.
            (Some(7), &first, json!({"id": 3, "note": null})),
            (None, &first, json!({"id": 4, "note": null})),
        ],
    );
    broker.put_avro(&scratch, &topic("one"), &[(None, &only, json!({"id": 9, "price": {"decimal": "12.34"}}))]);
    let source = |of: &str, format: Value, columns: Value| {
        let kafka = json!({"bootstrapServers": broker.address, "topics": [topic(of)], "bounded": true});
        json!({"name": of, "kafka": kafka, "format": {"avro": format}, "schema": columns})
    };
    let login = json!({"value": "weir:secret"});
    let many = json!({"registry": {"url": registry.url, "basicAuth": login}, "onBadRecord": "Skip"});
    let columns = json!([
        {"name": "id", "type": "BIGINT"}, {"name": "note", "type": "VARCHAR"}, {"name": "ratio", "type": "DOUBLE"},
        {"name": "tags", "type": "VARCHAR"},
    ]);
    let of_one = json!([{"name": "id", "type": "BIGINT"}, {"name": "price", "type": "DECIMAL(14, 3)"}]);
    let kafka = json!({"bootstrapServers": broker.address, "topic": topic("out")});
    let spec = json!({
        "pipeline": {
            "sources": [source("many", many, columns), source("one", json!({"schema": only.to_string()}), of_one)],
            "transforms": [{
                "name": "all",
                "sql": "SELECT id, note, ratio, tags FROM many UNION ALL \
                        SELECT id, CAST(price AS VARCHAR), CAST(NULL AS DOUBLE), CAST(NULL AS VARCHAR) FROM one",
            }],
            "sinks": [{
                "name": "out", "from": "all", "delivery": "AtLeastOnce", "kafka": kafka,
                "format": {"json": {"omitNulls": true}},
            }],
        },
        "checkpoint": {"interval": "1s", "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"none": {}},
    });
    let job = scratch.write_job(&name, &spec);
    let weir = |command: &str| Weir::new(scratch.path(), [command.as_ref(), job.as_os_str()]);
    let planned = weir("plan").succeed();
    assert!(planned.stdout.contains(&format!("the schema registry {} answers", registry.url)), "{planned}");
    let stranger = ["--set", "spec.pipeline.sources[0].format.avro.registry.basicAuth.value=weir:guessed"];
    let refused = weir("plan").with(stranger).fail();
    assert!(refused.stderr.contains("basicAuth"), "{refused}");
    let finished = weir("run").succeed();
    let mut written: Vec<String> = broker.read(&topic("out")).into_iter().filter_map(|message| message.value).collect();
    written.sort();
    let expected = [
        r#"{"id":1,"note":"a"}"#,
        r#"{"id":1099511627776,"ratio":0.25,"tags":"[\"t\",\"u\"]"}"#,
        r#"{"id":2}"#,
        r#"{"id":9,"note":"12.340"}"#,
    ];
    assert_eq!(written, expected, "{finished}");
    assert!(finished.stderr.contains("2 bad"), "{finished}");
}
