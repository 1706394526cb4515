//! How an ordered state holds the rows of one input: the key's columns in the key, all others in the namespace,
//! and a count beside, since SQL tables are multisets.

use crate::operator::OperatorError;
use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{DataType, SchemaRef};
use std::collections::BTreeSet;
use weir_model::StateField;
use weir_state::{EncodedRows, KeyCodec, StateError};

/// Which columns of an input stand where in its state.
#[derive(Clone, Debug)]
pub(crate) struct RowShape {
    /// Columns of the key.
    pub(crate) keys: Vec<usize>,
    /// Columns of the namespace, in this order: first what entries are sorted by, then all that isn't in the key.
    pub(crate) rest: Vec<usize>,
    pub(crate) key_fields: Vec<StateField>,
    pub(crate) rest_fields: Vec<StateField>,
    codec: KeyCodec,
    /// For each column of the input, where it comes from.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Key(usize),
    Rest(usize),
}

impl RowShape {
    /// `columns` is the number of the input's columns without the change kind.
    pub(crate) fn new(
        schema: &SchemaRef,
        columns: usize,
        keys: &[usize],
        sorted_by: &[usize],
    ) -> Result<Self, StateError> {
        let mut rest = sorted_by.to_vec();
        rest.extend((0..columns).filter(|column| !sorted_by.contains(column) && !keys.contains(column)));
        let (key_fields, rest_fields) = fields(schema, keys, &rest);
        let place = |column| match rest.iter().position(|other| *other == column) {
            Some(index) => Place::Rest(index),
            None => Place::Key(keys.iter().position(|key| *key == column).expect("not in the rest, so in the key")),
        };
        let places = (0..columns).map(place).collect();
        let codec = KeyCodec::new(&rest_fields)?;
        Ok(RowShape { keys: keys.to_vec(), rest, key_fields, rest_fields, codec, places })
    }

    pub(crate) fn key_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.keys.iter().map(|key| columns[*key].clone()).collect()
    }

    /// The namespace bytes of each row.
    pub(crate) fn encode(&self, columns: &[ArrayRef], rows: usize, out: &mut EncodedRows) -> Result<(), StateError> {
        let rest: Vec<ArrayRef> = self.rest.iter().map(|column| columns[*column].clone()).collect();
        self.codec.encode(&rest, rows, out)
    }

    /// The input's columns without rows: what a side has to show where it only pads with nulls.
    pub(crate) fn no_rows(&self) -> Vec<ArrayRef> {
        let data_type = |place: &Place| match place {
            Place::Key(index) => &self.key_fields[*index].data_type,
            Place::Rest(index) => &self.rest_fields[*index].data_type,
        };
        self.places.iter().map(|place| new_empty_array(data_type(place))).collect()
    }

    /// The input's columns again, out of key columns and namespace bytes.
    pub(crate) fn decode(&self, keys: &[ArrayRef], rest: &EncodedRows) -> Result<Vec<ArrayRef>, OperatorError> {
        let rest = self.codec.decode(rest.iter())?;
        let column = |place: &Place| match place {
            Place::Key(index) => keys[*index].clone(),
            Place::Rest(index) => rest[*index].clone(),
        };
        Ok(self.places.iter().map(column).collect())
    }
}

/// Named after the columns; a name that is taken gets the column's number behind it.
fn fields(schema: &SchemaRef, keys: &[usize], rest: &[usize]) -> (Vec<StateField>, Vec<StateField>) {
    let mut taken = BTreeSet::new();
    let mut field = |column: &usize| {
        let field = schema.field(*column);
        let mut name = field.name().clone();
        while !taken.insert(name.clone()) {
            name = format!("{name}_{column}");
        }
        // Always nullable: whether the planner can prove a column free of nulls must not decide whether a
        // checkpoint can be restored.
        StateField::new(name, field.data_type().clone(), true)
    };
    let keys = keys.iter().map(&mut field).collect();
    (keys, rest.iter().map(&mut field).collect())
}

/// The value beside a stored row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many times the row is there.
    pub(crate) count: i64,
    /// Rows of the other side that each of them matches; 0 where nobody asks.
    pub(crate) matches: i64,
}

/// The fields of a `Tally` in a state's schema; `matches` only where it is kept.
pub(crate) fn value_fields(with_matches: bool) -> Vec<StateField> {
    let mut fields = vec![StateField::new("row_count", DataType::Int64, false)];
    if with_matches {
        fields.push(StateField::new("match_count", DataType::Int64, false));
    }
    fields
}

impl Tally {
    /// As the value codec writes `value_fields`: no nulls, then the numbers.
    #[inline]
    pub(crate) fn encode(self, with_matches: bool, buffer: &mut [u8; 17]) -> &[u8] {
        buffer[0] = 0;
        buffer[1..9].copy_from_slice(&self.count.to_le_bytes());
        buffer[9..17].copy_from_slice(&self.matches.to_le_bytes());
        if with_matches { &buffer[..] } else { &buffer[..9] }
    }

    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, OperatorError> {
        let number =
            |from: usize| -> Option<i64> { bytes.get(from..from + 8)?.try_into().ok().map(i64::from_le_bytes) };
        match (bytes.first(), number(1)) {
            (Some(0), Some(count)) => Ok(Tally { count, matches: number(9).unwrap_or(0) }),
            _ => Err(OperatorError::Failed(format!("a stored row's count is {} bytes of nonsense", bytes.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use std::sync::Arc;
    use weir_state::ValueCodec;

    #[test]
    fn a_tally_is_what_the_value_codec_writes() {
        let number = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let tally = Tally { count: 3, matches: -1 };
        for with_matches in [false, true] {
            let fields = value_fields(with_matches);
            let mut encoded = EncodedRows::default();
            let columns = &[number(3), number(-1)][..fields.len()];
            ValueCodec::new(&fields).unwrap().encode(columns, 1, &mut encoded).unwrap();
            assert_eq!(tally.encode(with_matches, &mut [0; 17]), encoded.row(0));
        }
        assert_eq!(Tally::decode(tally.encode(true, &mut [0; 17])).unwrap(), tally);
        assert!(Tally::decode(&[0, 1]).is_err());
    }

    #[test]
    fn rows_there_and_back() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            field("a", DataType::Utf8),
            field("b", DataType::Int64),
            field("a", DataType::Int64),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("x"), None])),
            Arc::new(Int64Array::from(vec![Some(1), Some(2)])),
            Arc::new(Int64Array::from(vec![None, Some(7)])),
        ];
        let shape = RowShape::new(&schema, 3, &[0], &[2]).unwrap();
        assert_eq!(shape.rest, [2, 1]);
        assert_eq!(shape.rest_fields[0].name, "a_2");
        let mut encoded = EncodedRows::default();
        shape.encode(&columns, 2, &mut encoded).unwrap();
        let decoded = shape.decode(&shape.key_columns(&columns), &encoded).unwrap();
        assert_eq!(
            decoded.iter().map(|column| column.to_data()).collect::<Vec<_>>(),
            columns.iter().map(|column| column.to_data()).collect::<Vec<_>>()
        );
    }
}
