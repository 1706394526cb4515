//! Avro messages, written by an encoder of another make: of several schemas by their numbers in a registry, and of one.
//!
//! The registry is a stand-in: the two questions that are asked of one, answered over HTTP.

use crate::broker::Broker;
use crate::support::{Scratch, Weir};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// `weir:secret` as HTTP has it.
const AUTHORIZATION: &str = "authorization: Basic d2VpcjpzZWNyZXQ=";

/// Schemas by number. Its thread ends with the process.
struct Registry {
    url: String,
    /// Those that were registered, under the last of their numbers.
    schemas: Schemas,
}

type Schemas = Arc<Mutex<BTreeMap<u32, Value>>>;

impl Registry {
    fn start(schemas: BTreeMap<u32, Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let schemas = Arc::new(Mutex::new(schemas));
        let told = Arc::clone(&schemas);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let schemas = Arc::clone(&schemas);
                std::thread::spawn(move || answer(stream, &schemas));
            }
        });
        Registry { url, schemas: told }
    }

    fn schemas(&self) -> BTreeMap<String, Value> {
        let schemas = self.schemas.lock().expect("no thread panics with it");
        schemas.iter().map(|(number, schema)| (number.to_string(), schema.clone())).collect()
    }
}

/// Whether somebody who reads by the new schema can read what was written by the old one, as far as these tests go: a new field
/// needs a default.
fn can_follow(old: &Value, new: &Value) -> bool {
    let fields = |schema: &Value| schema["fields"].as_array().cloned().unwrap_or_default();
    let is_old = |field: &Value| fields(old).iter().any(|other| other["name"] == field["name"]);
    fields(new).iter().all(|field| field.get("default").is_some() || is_old(field))
}

/// What is posted: a schema to be registered, or to be compared with the latest.
fn posted(path: &str, body: &Value, schemas: &mut BTreeMap<u32, Value>) -> (&'static str, Value) {
    let schema: Value = serde_json::from_str(body["schema"].as_str().unwrap_or_default()).unwrap_or_default();
    let latest = schemas.values().next_back();
    let follows = latest.is_none_or(|latest| can_follow(latest, &schema));
    if path.starts_with("/compatibility/subjects/") {
        return match latest {
            None => ("404 Not Found", json!({"error_code": 40401})),
            Some(_) => {
                ("200 OK", json!({"is_compatible": follows, "messages": ["READER_FIELD_MISSING_DEFAULT_VALUE"]}))
            }
        };
    }
    if !follows {
        return ("409 Conflict", json!({"error_code": 409, "message": "incompatible"}));
    }
    let known = schemas.iter().find(|(_, known)| **known == schema).map(|(number, _)| *number);
    let number = known.unwrap_or_else(|| schemas.keys().next_back().map_or(300, |last| last + 1));
    schemas.insert(number, schema);
    ("200 OK", json!({"id": number}))
}

/// Questions of one connection until it is closed.
fn answer(stream: TcpStream, schemas: &Mutex<BTreeMap<u32, Value>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let question = line(&mut reader)?;
        let (mut is_authorized, mut length) = (false, 0);
        loop {
            let header = line(&mut reader)?;
            if header.is_empty() {
                break;
            }
            is_authorized |= header.eq_ignore_ascii_case(AUTHORIZATION);
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut schemas = schemas.lock().ok()?;
        let path = question.split(' ').nth(1)?;
        let number = path.strip_prefix("/schemas/ids/").and_then(|number| number.parse().ok());
        let (status, body) = if !is_authorized {
            ("401 Unauthorized", json!({"error_code": 401}))
        } else if question.starts_with("POST ") {
            posted(path, &body, &mut schemas)
        } else {
            match number.map(|number: u32| schemas.get(&number)) {
                Some(Some(schema)) => ("200 OK", json!({"schema": schema.to_string()})),
                Some(None) => ("404 Not Found", json!({"error_code": 40403})),
                None if path == "/subjects" => ("200 OK", json!([])),
                None => ("400 Bad Request", json!({})),
            }
        };
        let body = body.to_string();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
}

#[test]
fn avro_is_written_by_a_registered_schema_and_by_a_given_one() {
    let Some(broker) = Broker::of_tests() else { return };
    let registry = Registry::start(BTreeMap::new());
    let scratch = Scratch::new("kafka-avro-sink");
    let name = format!("avro-sink-{:08x}", rand::random::<u32>());
    let topic = |of: &str| format!("{name}-{of}");
    ["numbered", "given"].iter().for_each(|of| broker.create(&topic(of), 1));
    let given = json!({"type": "record", "name": "Order", "fields": [
        {"name": "k", "type": "string"}, {"name": "id", "type": ["null", "long"]},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
    ]});
    let sink = |of: &str, from: &str, format: Value| {
        json!({
            "name": of, "from": from, "delivery": "ExactlyOnce", "format": {"avro": format},
            "kafka": {"bootstrapServers": broker.address, "topic": topic(of), "key": ["k"], "transactionTimeout": "60s"},
        })
    };
    let login = json!({"value": "weir:secret"});
    let spec = json!({
        "pipeline": {
            "sources": [{
                "name": "rows",
                "files": {"path": scratch.write("rows.jsonl", [
                    r#"{"id": 1, "id2": 1, "k": "a", "at": "2026-01-31T12:00:00.001002", "price": "-1.28", "ratio": 0.5, "on": "1969-12-31"}"#,
                    r#"{"id2": 2, "k": "ä", "price": "1234567.89"}"#,
                ].join("\n"))},
                "format": {"json": {}},
                "schema": [
                    {"name": "id", "type": "INT"}, {"name": "k", "type": "VARCHAR", "nullable": false},
                    {"name": "at", "type": "TIMESTAMP"}, {"name": "price", "type": "DECIMAL(10, 2)"},
                    {"name": "ratio", "type": "DOUBLE"}, {"name": "on", "type": "DATE"},
                ],
            }],
            "transforms": [{"name": "few", "sql": "SELECT id, at, k FROM rows"}],
            "sinks": [
                sink("numbered", "rows", json!({"registry": {"url": registry.url, "basicAuth": login}})),
                sink("given", "few", json!({"schema": given.to_string()})),
            ],
        },
        "checkpoint": {"interval": "1s", "timeout": "20s", "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"none": {}},
    });
    let job = scratch.write_job(&name, &spec);
    let weir = |command: &str| Weir::new(scratch.path(), [command.as_ref(), job.as_os_str()]);
    let planned = weir("plan").succeed();
    assert!(planned.stdout.contains(&format!("takes the rows' schema as `{}-value`", topic("numbered"))), "{planned}");
    assert!(registry.schemas().is_empty(), "a plan changes nothing");
    let finished = weir("run").succeed();
    let read = |of: &str, schemas: &BTreeMap<String, Value>| -> Vec<(Option<String>, Value)> {
        let messages = broker.read_avro(&scratch, &topic(of), schemas);
        messages.iter().map(|message| (message.key.clone(), message.json().expect("JSON"))).collect()
    };
    let schemas = registry.schemas();
    assert_eq!(schemas.keys().collect::<Vec<_>>(), ["300"], "{finished}");
    let expected = [
        (
            Some("a".to_owned()),
            json!({
                "id": 1, "k": "a", "at": "2026-01-31 12:00:00.001002+00:00", "price": "-1.28", "ratio": 0.5, "on": "1969-12-31",
            }),
        ),
        (
            Some("ä".to_owned()),
            json!({"id": null, "k": "ä", "at": null, "price": "1234567.89", "ratio": null, "on": null}),
        ),
    ];
    assert_eq!(read("numbered", &schemas), expected, "{finished}");
    let expected = [
        (Some("a".to_owned()), json!({"k": "a", "id": 1, "at": "2026-01-31 12:00:00.001000+00:00"})),
        (Some("ä".to_owned()), json!({"k": "ä", "id": null, "at": null})),
    ];
    assert_eq!(read("given", &BTreeMap::from([("null".to_owned(), given)])), expected, "{finished}");
    // A column that is never NULL has no default, so that nobody could read the old messages by it.
    let added = [
        "--set",
        "spec.pipeline.sources[0].schema[0].nullable=false",
        "--set",
        "spec.pipeline.sources[0].schema[0].name=id2",
    ];
    let without_given = ["--set", "spec.pipeline.transforms[0].sql=SELECT id2 AS id, at, k FROM rows"];
    let refused = weir("plan").with(added).with(without_given).fail();
    for part in ["-value", "READER_FIELD_MISSING_DEFAULT_VALUE", "lower the subject's compatibility"] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    let refused = weir("run").with(["--from", "none"]).with(added).with(without_given).fail();
    assert!(
        refused.stderr.contains("cannot follow the latest one") && refused.stderr.contains("no restart can help"),
        "{refused}"
    );
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
