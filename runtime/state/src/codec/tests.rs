use super::*;
use arrow::array::*;
use arrow::datatypes::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A column of some type with these optional seeds as values.
fn column(data_type: &DataType, seeds: &[Option<u64>]) -> ArrayRef {
    macro_rules! primitive {
        ($t:ty, $make:expr) => {
            Arc::new(
                seeds
                    .iter()
                    .map(|seed| seed.map($make))
                    .collect::<PrimitiveArray<$t>>()
                    .with_data_type(data_type.clone()),
            )
        };
    }
    // Few distinct bytes, zero and 255 among them, so that strings share prefixes.
    let bytes =
        |seed: u64| (0..seed % 7).map(|i| [0u8, 1, 255, b'a'][(seed >> (3 + 2 * i)) as usize % 4]).collect::<Vec<_>>();
    let text = |seed: u64| {
        (0..seed % 7).map(|i| ['\0', 'a', 'é', '\u{10FFFF}'][(seed >> (3 + 2 * i)) as usize % 4]).collect::<String>()
    };
    match data_type {
        DataType::Null => Arc::new(NullArray::new(seeds.len())),
        DataType::Boolean => Arc::new(seeds.iter().map(|seed| seed.map(|s| s % 2 == 1)).collect::<BooleanArray>()),
        DataType::Int8 => primitive!(Int8Type, |s| s as i8),
        DataType::Int16 => primitive!(Int16Type, |s| s as i16),
        DataType::Int32 => primitive!(Int32Type, |s| s as i32),
        DataType::Int64 => primitive!(Int64Type, |s| s as i64),
        DataType::UInt8 => primitive!(UInt8Type, |s| s as u8),
        DataType::UInt16 => primitive!(UInt16Type, |s| s as u16),
        DataType::UInt32 => primitive!(UInt32Type, |s| s as u32),
        DataType::UInt64 => primitive!(UInt64Type, |s| s),
        DataType::Float32 => primitive!(Float32Type, |s| f32::from_bits(s as u32)),
        DataType::Float64 => primitive!(Float64Type, f64::from_bits),
        DataType::Date32 => primitive!(Date32Type, |s| s as i32),
        DataType::Time32(_) => primitive!(Time32MillisecondType, |s| s as i32),
        DataType::Time64(_) => primitive!(Time64MicrosecondType, |s| s as i64),
        DataType::Timestamp(_, _) => primitive!(TimestampMicrosecondType, |s| s as i64),
        DataType::Decimal128(_, _) => primitive!(Decimal128Type, |s| (s as i64 as i128) << (s % 60)),
        DataType::Utf8 => Arc::new(seeds.iter().map(|seed| seed.map(text)).collect::<StringArray>()),
        DataType::LargeUtf8 => Arc::new(seeds.iter().map(|seed| seed.map(text)).collect::<LargeStringArray>()),
        DataType::Utf8View => Arc::new(seeds.iter().map(|seed| seed.map(text)).collect::<StringViewArray>()),
        DataType::Binary => Arc::new(seeds.iter().map(|seed| seed.map(bytes)).collect::<BinaryArray>()),
        DataType::LargeBinary => Arc::new(seeds.iter().map(|seed| seed.map(bytes)).collect::<LargeBinaryArray>()),
        other => panic!("{other}"),
    }
}

fn data_types() -> Vec<DataType> {
    use DataType::*;
    vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float32,
        Float64,
        Date32,
        Time32(TimeUnit::Millisecond),
        Time64(TimeUnit::Microsecond),
        Timestamp(TimeUnit::Microsecond, None),
        Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Decimal128(38, 3),
        Utf8,
        LargeUtf8,
        Utf8View,
        Binary,
        LargeBinary,
    ]
}

prop_compose! {
    fn a_batch()(types in prop::collection::vec(0..data_types().len(), 1..5), nullable in prop::collection::vec(any::<bool>(), 5), rows in 0usize..12)
        (seeds in prop::collection::vec(prop::collection::vec(prop::option::of(prop_oneof![any::<u64>(), 0u64..4, (0u64..4).prop_map(|s| s << 62), Just(f64::NAN.to_bits()), Just((-0.0f64).to_bits())]), rows), types.len()), types in Just(types), nullable in Just(nullable))
        -> (Vec<StateField>, Vec<ArrayRef>, usize) {
        let rows = seeds[0].len();
        let mut fields = vec![];
        let mut columns = vec![];
        for ((of, nullable), seeds) in types.iter().zip(nullable).zip(&seeds) {
            let data_type = &data_types()[*of];
            let seeds: Vec<Option<u64>> = seeds.iter().map(|seed| if nullable { *seed } else { seed.or(Some(7)) }).collect();
            fields.push(StateField::new(format!("f{}", fields.len()), data_type.clone(), nullable));
            columns.push(column(data_type, &seeds));
        }
        (fields, columns, rows)
    }
}

/// Floats as the codec compares them: one zero, one NaN.
fn canonical(column: &ArrayRef) -> ArrayRef {
    fn of<T: ArrowPrimitiveType>(column: &ArrayRef, f: impl Fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(column.as_primitive::<T>().unary::<_, T>(f))
    }
    match column.data_type() {
        DataType::Float32 => of::<Float32Type>(column, |v| {
            if v == 0.0 {
                0.0
            } else if v.is_nan() {
                f32::NAN
            } else {
                v
            }
        }),
        DataType::Float64 => of::<Float64Type>(column, |v| {
            if v == 0.0 {
                0.0
            } else if v.is_nan() {
                f64::NAN
            } else {
                v
            }
        }),
        _ => column.clone(),
    }
}

proptest! {
    #[test]
    fn keys_there_and_back_in_order((fields, columns, rows) in a_batch()) {
        let codec = KeyCodec::new(&fields).unwrap();
        let mut encoded = EncodedRows::default();
        codec.encode(&columns, rows, &mut encoded).unwrap();
        let expected: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        prop_assert_eq!(codec.decode(encoded.iter()).unwrap(), expected.clone());
        for a in 0..rows {
            for b in 0..rows {
                let order = expected.iter().map(|column| compare(column, a, b)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal);
                prop_assert_eq!(encoded.row(a).cmp(encoded.row(b)), order, "rows {} and {} of {:?}", a, b, expected);
                prop_assert!(a == b || order.is_eq() || !encoded.row(a).starts_with(encoded.row(b)));
            }
        }
    }

    #[test]
    fn values_there_and_back((fields, columns, rows) in a_batch()) {
        let codec = ValueCodec::new(&fields).unwrap();
        let mut encoded = EncodedRows::default();
        codec.encode(&columns, rows, &mut encoded).unwrap();
        // NaNs of any payload stay what they are, so bytes are compared and not floats.
        let decoded = codec.decode(encoded.iter()).unwrap();
        let mut again = EncodedRows::default();
        codec.encode(&decoded, rows, &mut again).unwrap();
        prop_assert_eq!(&encoded.bytes, &again.bytes);
        for (decoded, column) in decoded.iter().zip(&columns) {
            prop_assert_eq!(decoded.data_type(), column.data_type());
            prop_assert_eq!(decoded.logical_nulls().map(|n| n.null_count()), column.logical_nulls().map(|n| n.null_count()));
            if !column.data_type().is_floating() {
                prop_assert_eq!(decoded, column);
            }
        }
    }

    #[test]
    fn garbage_is_an_error_or_a_row(bytes in prop::collection::vec(any::<u8>(), 0..40), of in 0..data_types().len(), nullable: bool) {
        let fields = [StateField::new("f", data_types()[of].clone(), nullable), StateField::new("g", DataType::Utf8, true)];
        let _ = KeyCodec::new(&fields).unwrap().decode([&bytes[..]]);
        let _ = ValueCodec::new(&fields).unwrap().decode([&bytes[..]]);
    }
}

fn compare(column: &ArrayRef, a: usize, b: usize) -> std::cmp::Ordering {
    if *column.data_type() == DataType::Null {
        return std::cmp::Ordering::Equal;
    }
    arrow::array::make_comparator(column, column, arrow::compute::SortOptions { descending: false, nulls_first: true })
        .unwrap()(a, b)
}

/// What these bytes are, checkpoints and savepoints hold.
#[test]
fn golden() {
    let fields = [
        StateField::new("i", DataType::Int64, false),
        StateField::new("s", DataType::Utf8, true),
        StateField::new("d", DataType::Float64, true),
        StateField::new("m", DataType::Decimal128(10, 2), false),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, -2])),
        Arc::new(StringArray::from(vec![Some("a\0b"), None])),
        Arc::new(Float64Array::from(vec![None, Some(-1.5)])),
        Arc::new(Decimal128Array::from(vec![5i128, -1]).with_precision_and_scale(10, 2).unwrap()),
    ];
    let hex = |encoded: &EncodedRows| {
        encoded
            .iter()
            .map(|row| row.iter().map(|b| format!("{b:02x}")).collect::<String>())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut encoded = EncodedRows::default();
    KeyCodec::new(&fields).unwrap().encode(&columns, 2, &mut encoded).unwrap();
    assert_eq!(
        hex(&encoded),
        "8000000000000001016100ff6200000080000000000000000000000000000005 \
         7ffffffffffffffe00014007ffffffffffff7fffffffffffffffffffffffffffffff"
    );
    ValueCodec::new(&fields).unwrap().encode(&columns, 2, &mut encoded).unwrap();
    assert_eq!(
        hex(&encoded),
        [
            "04 0100000000000000 03610062 05000000000000000000000000000000",
            "02 feffffffffffffff 000000000000f8bf ffffffffffffffffffffffffffffffff",
        ]
        .map(|row| row.replace(' ', ""))
        .join(" ")
    );
}

#[test]
fn columns_that_are_not_the_schemas() {
    let codec = KeyCodec::new(&[StateField::new("k", DataType::Int64, false)]).unwrap();
    let mut out = EncodedRows::default();
    let message = |columns: &[ArrayRef], out: &mut EncodedRows| codec.encode(columns, 1, out).unwrap_err().to_string();
    let wrong: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    assert_eq!(message(&[wrong], &mut out), "column `k`: the state's schema says Int64, the batch holds Int32");
    let null: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
    assert_eq!(message(&[null], &mut out), "column `k` holds a null, which the state's schema doesn't allow");
    assert_eq!(message(&[], &mut out), "key: 0 columns for a schema of 1 fields");
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    assert!(KeyCodec::new(&[StateField::new("l", list, true)]).is_err());
}
