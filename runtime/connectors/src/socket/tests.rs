use super::*;
use crate::formats::CsvFormat;
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;

fn reader(address: String, attempts: u32) -> Box<dyn SourceReader> {
    let source = SocketSource::new(SocketConfig {
        address,
        format: DecoderConfig::Csv(CsvFormat::default()),
        schema: Arc::new(Schema::new(vec![Field::new("word", DataType::Utf8, true)])),
        on_bad_record: OnBadRecord::Skip,
        reconnect: Reconnect { first: Duration::from_millis(1), max: Duration::from_millis(5), attempts },
    });
    let context = SourceContext { name: "words".into(), job_uid: "job".into(), subtask: 0, parallelism: 1 };
    source.unwrap().reader(context, Vec::new()).unwrap()
}

fn words(reader: &mut dyn SourceReader, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    while words.len() < count {
        match reader.poll(2).unwrap() {
            Poll::Batch { batch, .. } => {
                assert!(batch.num_rows() <= 2);
                words.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
            }
            Poll::Pending { retry_after } => std::thread::park_timeout(retry_after),
            other => panic!("{other:?}"),
        }
    }
    words
}

#[test]
fn lines_over_two_connections() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reader = reader(server.local_addr().unwrap().to_string(), 10);
    let (mut connection, _) = server.accept().unwrap();
    connection.write_all(b"n,word\r\n1,one\n2,tw").unwrap();
    assert_eq!(words(&mut *reader, 1), ["one"]);
    connection.write_all(b"o\nbad\n3,three\n4,four\n5,last line").unwrap();
    drop(connection);
    let (mut connection, _) = server.accept().unwrap();
    connection.write_all(b"word\nsix\n").unwrap();
    assert_eq!(words(&mut *reader, 5), ["two", "three", "four", "last line", "six"]);
    assert_eq!(reader.skipped_records(), 1);
    assert_eq!(reader.snapshot().unwrap(), []);
}

#[test]
fn gives_up_after_so_many_failures() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut reader = reader(unused.to_string(), 3);
    let error = loop {
        match reader.poll(1) {
            Ok(Poll::Pending { retry_after }) => std::thread::park_timeout(retry_after),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("tried 3 times"), "{error}");
}
