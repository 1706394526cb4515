//! Records of all column types, with the columns that they stand for.

use crate::rows::OutputBuffer;
use crate::types::{Date, Record, Time, Timestamp};
use crate::{ChangeKind, RowSchema, StateField};
use arrow::array::ArrayRef;

crate::record! {
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Sample {
        pub(crate) boolean: bool,
        pub(crate) tiny: i8,
        pub(crate) small: Option<i16>,
        pub(crate) int: i32,
        pub(crate) long: Option<i64>,
        pub(crate) float: f32,
        pub(crate) double: Option<f64>,
        pub(crate) decimal: i128,
        pub(crate) text: String,
        pub(crate) maybe_text: Option<String>,
        pub(crate) bytes: Vec<u8>,
        pub(crate) date: Date,
        pub(crate) time: Option<Time>,
        pub(crate) at: Timestamp,
    }
}

pub(crate) fn sample_records() -> Vec<(Sample, Vec<StateField>, Vec<ArrayRef>)> {
    let low = Sample {
        boolean: false,
        tiny: i8::MIN,
        small: None,
        int: i32::MIN,
        long: None,
        float: f32::NEG_INFINITY,
        double: None,
        decimal: -1,
        text: String::new(),
        maybe_text: None,
        bytes: vec![],
        date: Date { days: -1 },
        time: None,
        at: Timestamp::MIN,
    };
    let high = Sample {
        boolean: true,
        tiny: i8::MAX,
        small: Some(-1),
        int: 7,
        long: Some(i64::MAX),
        float: 1.5,
        double: Some(-2.25),
        decimal: 10i128.pow(37),
        text: "a\0b é".into(),
        maybe_text: Some("x".repeat(300)),
        bytes: vec![0, 0, 255, 0],
        date: Date { days: 20_000 },
        time: Some(Time { micros: 86_399_999_999 }),
        at: Timestamp::MAX,
    };
    [low, high].into_iter().map(with_columns).collect()
}

fn with_columns(record: Sample) -> (Sample, Vec<StateField>, Vec<ArrayRef>) {
    let mut buffer = OutputBuffer::new(&RowSchema::of::<Sample>().into_stream().unwrap()).unwrap();
    buffer.append(ChangeKind::Insert, &record).unwrap();
    let batch = buffer.finish().unwrap().unwrap();
    (record, Sample::fields(), batch.columns().to_vec())
}
