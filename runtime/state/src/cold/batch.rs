/// Changes to a store, in order, in one piece of memory.
#[derive(Clone, Debug, Default)]
pub struct ColdBatch {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    kind: Kind,
    begin: usize,
    key_length: u32,
    value_length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

/// One change to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdChange<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    /// All keys with `from <= key < to`.
    DeleteRange {
        from: &'a [u8],
        to: &'a [u8],
    },
}

impl ColdBatch {
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The changes. Puts and deletes ascend by key, and no key is in there twice; a range delete comes before the puts
    /// in its range.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ColdChange<'_>> {
        self.changes.iter().map(|change| {
            let bytes = &self.bytes[change.begin..][..change.key_length as usize + change.value_length as usize];
            let (key, value) = bytes.split_at(change.key_length as usize);
            match change.kind {
                Kind::Put => ColdChange::Put { key, value },
                Kind::Delete => ColdChange::Delete { key },
                Kind::DeleteRange => ColdChange::DeleteRange { from: key, to: value },
            }
        })
    }

    /// Adds a change at the end.
    pub fn push(&mut self, change: ColdChange<'_>) {
        match change {
            ColdChange::Put { key, value } => self.put(&[key], |bytes| bytes.extend_from_slice(value)),
            ColdChange::Delete { key } => self.delete(&[key]),
            ColdChange::DeleteRange { from, to } => self.delete_range(from, to),
        }
    }

    pub(crate) fn first_key(&self) -> Option<&[u8]> {
        self.changes.first().map(|change| self.key(change))
    }

    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        self.changes.last().map(|change| self.key(change))
    }

    fn key(&self, change: &Change) -> &[u8] {
        &self.bytes[change.begin..change.begin + change.key_length as usize]
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.changes.clear();
    }

    pub(crate) fn put(&mut self, key: &[&[u8]], value: impl FnOnce(&mut Vec<u8>)) {
        self.add(Kind::Put, key, value);
    }

    pub(crate) fn delete(&mut self, key: &[&[u8]]) {
        self.add(Kind::Delete, key, |_| {});
    }

    pub(crate) fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.add(Kind::DeleteRange, &[from], |bytes| bytes.extend_from_slice(to));
    }

    fn add(&mut self, kind: Kind, key: &[&[u8]], value: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        key.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let key_length = (self.bytes.len() - begin) as u32;
        value(&mut self.bytes);
        let value_length = (self.bytes.len() - begin) as u32 - key_length;
        self.changes.push(Change { kind, begin, key_length, value_length });
    }

    /// Puts all changes, which are puts, into the order of their keys; of those of one key the last stays.
    pub(crate) fn settle(&mut self) {
        let bytes = &self.bytes;
        let key = |change: &Change| &bytes[change.begin..change.begin + change.key_length as usize];
        self.changes.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(b.begin.cmp(&a.begin)));
        self.changes.dedup_by(|earlier, last| key(earlier) == key(last));
    }

    /// Takes the changes of keys from this one on, which are puts, out of a batch in order.
    pub(crate) fn split_off(&mut self, from: &[u8]) -> ColdBatch {
        let first = self.changes.partition_point(|change| self.key(change) < from);
        let mut rest = ColdBatch::default();
        for change in &self.changes[first..] {
            let value = &self.bytes[change.begin + change.key_length as usize..][..change.value_length as usize];
            rest.put(&[self.key(change)], |out| out.extend_from_slice(value));
        }
        self.changes.truncate(first);
        rest
    }

    /// Puts the changes from `first` on into the order of their keys.
    pub(crate) fn sort_from(&mut self, first: usize) {
        let bytes = &self.bytes;
        let key = |change: &Change| &bytes[change.begin..change.begin + change.key_length as usize];
        self.changes[first..].sort_unstable_by(|a, b| key(a).cmp(key(b)));
    }
}
