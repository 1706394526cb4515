//! Record batches as brokers store them (magic 2): written from rows of bytes, and read without an allocation for each
//! record.

mod read;
mod varint;
mod write;

pub use read::{Aborted, RecordReader, RecordView, end_of};
pub use write::BatchBuilder;
pub(crate) use write::Stamp;

/// Where the fields of a batch's header are.
pub(crate) mod layout {
    pub(crate) const LENGTH: usize = 8;
    pub(crate) const MAGIC: usize = 16;
    pub(crate) const CRC: usize = 17;
    pub(crate) const ATTRIBUTES: usize = 21;
    pub(crate) const LAST_OFFSET_DELTA: usize = 23;
    pub(crate) const BASE_TIMESTAMP: usize = 27;
    pub(crate) const MAX_TIMESTAMP: usize = 35;
    pub(crate) const PRODUCER_ID: usize = 43;
    pub(crate) const PRODUCER_EPOCH: usize = 51;
    pub(crate) const BASE_SEQUENCE: usize = 53;
    pub(crate) const COUNT: usize = 57;
    pub(crate) const RECORDS: usize = 61;
    /// Base offset and length, which the length does not count.
    pub(crate) const BEFORE_LENGTH: usize = 12;

    pub(crate) const TRANSACTIONAL: i16 = 1 << 4;
    pub(crate) const CONTROL: i16 = 1 << 5;
    pub(crate) const LOG_APPEND_TIME: i16 = 1 << 3;
}
