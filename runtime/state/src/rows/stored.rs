//! Rows of a cold store as columns, without a table between.

use super::RowState;
use super::columns::fixed_column;
use crate::codec::BytesBuilder;
use crate::cold::{ColdStore, PREFIX_BYTES, ROW_PREFIX_BYTES, behind_prefix, cold_prefix};
use crate::key_batch::KeyForm;
use crate::layout::FieldKind;
use crate::{EncodedRows, StateError};
use arrow::array::{ArrayRef, Int64Array, new_null_array};
use arrow::datatypes::DataType;
use std::ops::ControlFlow;
use weir_model::KeyGroup;

/// Rows decoded at once.
const BATCH_ROWS: usize = 8192;

/// What visits rows: namespaces, key columns and values.
type Visit<'v, E> = dyn FnMut(Int64Array, &[ArrayRef], Vec<ArrayRef>) -> Result<(), E> + 'v;

impl RowState {
    /// Visits all rows that a store holds of a key group, in one scan. This state gives the schema and holds no rows.
    pub(crate) fn visit_stored_group<E: From<StateError>>(
        &self,
        store: &dyn ColdStore,
        state: u16,
        group: KeyGroup,
        visit: &mut Visit<'_, E>,
    ) -> Result<(), E> {
        let from = cold_prefix(state, group);
        let (mut keys, mut images) = (EncodedRows::default(), EncodedRows::default());
        let mut visited = Ok(());
        store.scan(&from, behind_prefix(&from).as_deref(), &mut |key, image| {
            keys.push(key);
            images.push(image);
            if keys.len() < BATCH_ROWS {
                return ControlFlow::Continue(());
            }
            visited = self.visit_stored_rows(group, &keys, &images, visit);
            keys.clear();
            images.clear();
            if visited.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        visited?;
        if keys.is_empty() { Ok(()) } else { self.visit_stored_rows(group, &keys, &images, visit) }
    }

    fn visit_stored_rows<E: From<StateError>>(
        &self,
        group: KeyGroup,
        stored: &EncodedRows,
        images: &EncodedRows,
        visit: &mut Visit<'_, E>,
    ) -> Result<(), E> {
        let namespaces = namespaces_of(stored)?;
        let keys = self.keys_of_stored(group, stored)?;
        let keys = match self.form() {
            KeyForm::Bytes if self.schema.key.is_empty() => vec![],
            KeyForm::Word | KeyForm::Bytes => keys.decode(&self.schema.key)?,
        };
        visit(Int64Array::from(namespaces), &keys, self.values_of_images(images)?)
    }

    /// An image is what `row` lends: null bits, then the words of the fields, of strings their length. The strings follow.
    fn values_of_images(&self, images: &EncodedRows) -> Result<Vec<ArrayRef>, StateError> {
        let fixed_bytes = 4 + (self.physical.stride - self.physical.header() - 1) * 8;
        let broken = || {
            let what = format!("a row of state `{}` in the cold store", self.schema.name);
            StateError::decode(what, "its length isn't that of its schema")
        };
        let strings: Vec<_> = self.layout.fields().iter().filter(|field| field.kind() == FieldKind::Var).collect();
        for image in images.iter() {
            let rest = image.len().checked_sub(fixed_bytes).ok_or_else(broken)? as u64;
            let lengths = strings.iter().try_fold(0u64, |sum, field| sum.checked_add(field.get_u64(image)));
            if lengths != Some(rest) {
                return Err(broken());
            }
        }
        // Where the next string of each row begins.
        let mut begins = vec![fixed_bytes; if strings.is_empty() { 0 } else { images.len() }];
        let fields = self.schema.value.iter().zip(self.layout.fields());
        let columns = fields.map(|(field, layout)| match (&field.data_type, layout.kind()) {
            (DataType::Null, _) => Ok(new_null_array(&DataType::Null, images.len())),
            (data_type, FieldKind::Word | FieldKind::Decimal) => {
                fixed_column(*layout, data_type, images.iter().map(Some))
            }
            (data_type, FieldKind::Var) => {
                let mut builder = BytesBuilder::with_capacity(images.len());
                for (image, begin) in images.iter().zip(&mut begins) {
                    let string = &image[*begin..][..layout.get_u64(image) as usize];
                    *begin += string.len();
                    builder.append((!layout.is_null(image)).then_some(string));
                }
                builder.finish(data_type)
            }
        });
        columns.collect()
    }
}

/// The namespaces in a store's keys of rows.
pub(super) fn namespaces_of(stored: &EncodedRows) -> Result<Vec<i64>, StateError> {
    let namespace = |key: &[u8]| {
        let bytes = key.get(PREFIX_BYTES..ROW_PREFIX_BYTES).and_then(|bytes| bytes.first_chunk::<8>());
        bytes.map(|bytes| (u64::from_be_bytes(*bytes) ^ 1 << 63) as i64)
    };
    let namespaces: Option<Vec<i64>> = stored.iter().map(namespace).collect();
    namespaces.ok_or_else(|| StateError::decode("a key in the cold store", "it has no namespace"))
}
