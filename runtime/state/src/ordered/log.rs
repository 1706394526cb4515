//! What changed in an ordered state since a cut, as it happened.

use weir_model::KeyGroup;

/// Puts and deletes in order. Handed to a cut as it is; sorted and freed of what was overwritten by the thread
/// that writes the cut.
#[derive(Default)]
pub(crate) struct Log {
    bytes: Vec<u8>,
    operations: usize,
    /// There were more changes than it pays to keep: the next cut writes the whole state.
    pub(crate) overflown: bool,
}

/// Below this, a log is never given up.
const MIN_LOG_BYTES: usize = 1 << 24;
const HEADER: usize = 11;
const PUT: u8 = 1;
/// The key was there before.
const EXISTED: u8 = 2;

pub(crate) struct Operation<'a> {
    pub(crate) group: KeyGroup,
    pub(crate) existed: bool,
    pub(crate) key: &'a [u8],
    /// `None`: deleted.
    pub(crate) value: Option<&'a [u8]>,
}

impl Log {
    /// `state_bytes` bounds the log: once it holds twice that, writing the whole state is cheaper.
    pub(crate) fn add(&mut self, operation: Operation<'_>, state_bytes: usize) {
        if self.overflown {
            return;
        }
        if self.bytes.len() > MIN_LOG_BYTES.max(state_bytes * 2) {
            *self = Log { overflown: true, ..Log::default() };
            return;
        }
        let Operation { group, existed, key, value } = operation;
        let flags = if value.is_some() { PUT } else { 0 } | if existed { EXISTED } else { 0 };
        let value = value.unwrap_or_default();
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&group.0.to_le_bytes());
        header[2] = flags;
        header[3..7].copy_from_slice(&(key.len() as u32).to_le_bytes());
        header[7..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.operations += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.operations == 0 && !self.overflown
    }

    pub(crate) fn len(&self) -> usize {
        self.operations
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Operation<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk::<HEADER>()?;
            let length = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes")) as usize;
            let (key, after) = after.split_at(length(3));
            let (value, after) = after.split_at(length(7));
            rest = after;
            Some(Operation {
                group: KeyGroup(u16::from_le_bytes([header[0], header[1]])),
                existed: header[2] & EXISTED != 0,
                key,
                value: (header[2] & PUT != 0).then_some(value),
            })
        })
    }
}
