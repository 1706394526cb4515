//! The last entry under a prefix of an ordered state, which scans forward only.

use crate::operator::OperatorError;
use std::ops::ControlFlow;
use weir_model::KeyGroup;
use weir_state::OrderedState;

/// Entries that are passed one by one before the search begins to jump.
const SCANNED: usize = 32;

/// The greatest namespace under `key`.
///
/// Few entries are scanned. Where there are more, the place of the last one is found byte by byte, by asking
/// for the first entry after a guess: some eight questions a byte at most, however many entries there are.
pub(crate) fn last_namespace(
    state: &mut OrderedState,
    group: KeyGroup,
    key: &[u8],
) -> Result<Option<Vec<u8>>, OperatorError> {
    let mut last: Option<Vec<u8>> = None;
    let mut scanned = 0;
    state.scan_prefix(group, key, |namespace, _| {
        scanned += 1;
        last = Some(namespace.to_vec());
        if scanned < SCANNED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if scanned < SCANNED {
        return Ok(last);
    }
    let mut search = Search { state, group, key, last: last.unwrap_or_default() };
    let mut depth = 0;
    while search.advance_past_last()? {
        search.maximise_byte(depth)?;
        depth += 1;
    }
    Ok(Some(search.last))
}

struct Search<'a> {
    state: &'a mut OrderedState,
    group: KeyGroup,
    key: &'a [u8],
    /// The greatest namespace seen.
    last: Vec<u8>,
}

impl Search<'_> {
    /// Goes to the next entry; false if there is none.
    fn advance_past_last(&mut self) -> Result<bool, OperatorError> {
        let mut after = self.last.clone();
        after.push(0);
        self.jump(&after)
    }

    /// Goes to the last entry as far as its byte `depth` decides, all bytes before being the last one's already.
    fn maximise_byte(&mut self, depth: usize) -> Result<(), OperatorError> {
        let mut unknown_to = 256;
        while let Some(byte) = self.last.get(depth).map(|byte| *byte as usize) {
            if byte + 1 >= unknown_to {
                break;
            }
            let middle = (byte + 1 + unknown_to) / 2;
            let mut guess = self.last[..depth].to_vec();
            guess.push(middle as u8);
            if !self.jump(&guess)? {
                unknown_to = middle;
            }
        }
        Ok(())
    }

    /// Goes to the first entry at or after `namespace`; false if there is none.
    fn jump(&mut self, namespace: &[u8]) -> Result<bool, OperatorError> {
        let from = [self.key, namespace].concat();
        let mut found = None;
        self.state.scan_range(self.group, &from, None, |place, _| {
            found = place.strip_prefix(self.key).map(<[u8]>::to_vec);
            ControlFlow::Break(())
        })?;
        let is_there = found.is_some();
        if let Some(found) = found {
            self.last = found;
        }
        Ok(is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::keyed_state;
    use arrow::datatypes::DataType;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use weir_model::{StateField, StateKind, StateSchema};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_greatest_of_however_many(
            namespaces in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![1u8, 2, 7, 254, 255]), 5), 0..300),
        ) {
            let field = |name| StateField::new(name, DataType::Binary, false);
            let schema = StateSchema {
                name: "values".into(),
                kind: StateKind::Map,
                key: vec![field("key")],
                namespace: vec![field("value")],
                value: vec![],
                semantics: vec![],
            };
            let mut state = keyed_state();
            let id = state.register_ordered(schema).unwrap();
            let state = state.ordered(id);
            let group = KeyGroup(3);
            for (key, others) in [(b"k".as_slice(), &namespaces), (b"l", &BTreeSet::from([vec![9]]))] {
                for namespace in others {
                    state.put(group, key, namespace, &[]).unwrap();
                }
            }
            prop_assert_eq!(last_namespace(state, group, b"k").unwrap(), namespaces.last().cloned());
        }
    }
}
