//! Frames of the data plane: elements of many channels over one connection, and the credit that comes back.
//!
//! ```text
//! frame: length u32 of what follows | kind u8 | channel u32 | body        numbers little-endian
//! ```
//! A batch's body is the next piece of its channel's Arrow IPC stream: the schema stands before the first batch only.

use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamEncoder;
use arrow::record_batch::RecordBatch;
use weir_model::{Barrier, CheckpointId, CheckpointKind, Epoch, Fence, StreamElement, Watermark, WorkerId};

/// Longest frame: above it, the bytes are not a frame of ours, or a batch is too big to be sent.
pub const FRAME_LIMIT: usize = 256 << 20;
/// Kind and channel.
pub const HEADER_BYTES: usize = 5;
const HELLO_BYTES: usize = 24;
/// First bytes of a connection, and the version of the framing.
const MAGIC: [u8; 4] = *b"wir2";

const BATCH: u8 = 1;
const WATERMARK: u8 = 2;
const IDLE: u8 = 3;
const BARRIER: u8 = 4;
const CANCEL_BARRIER: u8 = 5;
const END: u8 = 6;
const CREDIT: u8 = 7;
const UNALIGNED_BARRIER: u8 = 8;
const LIMIT: u8 = 9;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("not a connection of this protocol")]
    Magic,
    #[error("a frame of {0} bytes; at most {FRAME_LIMIT} are sent")]
    Length(usize),
    #[error("a frame of kind {0}, which this version doesn't know")]
    Kind(u8),
    #[error("a frame that is too short for its kind")]
    Short,
    #[error("a batch that cannot be read: {0}")]
    Batch(#[from] ArrowError),
}

/// What the connecting worker says first: which attempt its elements belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub fence: Fence,
    pub from: WorkerId,
    pub to: WorkerId,
}

impl Hello {
    pub const BYTES: usize = HELLO_BYTES;

    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..12].copy_from_slice(&self.fence.epoch.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.fence.attempt.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.to.0.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, FrameError> {
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let epoch = u64::from_le_bytes(bytes[4..12].try_into().expect("eight bytes"));
        let attempt = weir_model::AttemptNumber(u32_at(12));
        Ok(Hello {
            fence: Fence { epoch: Epoch(epoch), attempt },
            from: WorkerId(u32_at(16)),
            to: WorkerId(u32_at(20)),
        })
    }
}

/// One frame, ready to be written piece by piece: batches are not copied together.
#[derive(Debug)]
pub struct Frame {
    pub head: Vec<u8>,
    pub body: Vec<Buffer>,
}

impl Frame {
    /// Bytes behind the header: what a channel's credit counts.
    pub fn body_bytes(&self) -> usize {
        self.body.iter().map(Buffer::len).sum()
    }
}

/// Makes frames of one channel's elements.
pub struct Encoder {
    channel: u32,
    stream: StreamEncoder,
}

impl Encoder {
    pub fn new(channel: u32, schema: &SchemaRef) -> Result<Self, FrameError> {
        Ok(Encoder { channel, stream: StreamEncoder::try_new(schema)? })
    }

    pub fn encode(&mut self, element: &StreamElement) -> Result<Frame, FrameError> {
        let small = |kind, body: &[u8]| Frame { head: head(kind, self.channel, body.len(), body), body: vec![] };
        Ok(match element {
            StreamElement::Batch(batch) => {
                let body = self.stream.encode(batch)?;
                let length = body.iter().map(Buffer::len).sum();
                if length > FRAME_LIMIT - HEADER_BYTES {
                    return Err(FrameError::Length(length));
                }
                Frame { head: head(BATCH, self.channel, length, &[]), body }
            }
            StreamElement::Watermark(watermark) => small(WATERMARK, &watermark.0.to_le_bytes()),
            StreamElement::Idle => small(IDLE, &[]),
            StreamElement::Barrier(barrier) => small(BARRIER, &barrier_body(barrier)),
            StreamElement::UnalignedBarrier(barrier) => small(UNALIGNED_BARRIER, &barrier_body(barrier)),
            StreamElement::CancelBarrier(checkpoint) => small(CANCEL_BARRIER, &checkpoint.0.to_le_bytes()),
            StreamElement::End => small(END, &[]),
        })
    }
}

/// Gives a channel's writer back what its reader has taken.
pub fn credit(channel: u32, bytes: u32) -> Vec<u8> {
    head(CREDIT, channel, 4, &bytes.to_le_bytes())
}

/// Tells a channel's writer how many bytes may be on the way.
pub fn limit(channel: u32, bytes: u32) -> Vec<u8> {
    head(LIMIT, channel, 4, &bytes.to_le_bytes())
}

fn head(kind: u8, channel: u32, body_bytes: usize, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(4 + HEADER_BYTES + body.len());
    head.extend(((HEADER_BYTES + body_bytes) as u32).to_le_bytes());
    head.push(kind);
    head.extend(channel.to_le_bytes());
    head.extend(body);
    head
}

/// What a frame holds.
#[derive(Debug)]
pub enum Received {
    Element(StreamElement),
    Credit(u32),
    Limit(u32),
}

/// The length of a frame, from its first four bytes.
pub fn frame_length(bytes: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(bytes) as usize;
    if (HEADER_BYTES..=FRAME_LIMIT).contains(&length) { Ok(length) } else { Err(FrameError::Length(length)) }
}

/// Room for a frame's body, so aligned that a batch is used where it lies.
pub fn body_buffer(bytes: usize) -> MutableBuffer {
    MutableBuffer::from_len_zeroed(bytes)
}

/// The kind and the channel of a frame.
pub fn split_header(header: [u8; HEADER_BYTES]) -> (u8, u32) {
    (header[0], u32::from_le_bytes([header[1], header[2], header[3], header[4]]))
}

/// Reads one channel's frames.
#[derive(Default)]
pub struct Decoder {
    stream: StreamDecoder,
}

impl Decoder {
    pub fn decode(&mut self, kind: u8, body: Buffer) -> Result<Received, FrameError> {
        let number = |bytes: &[u8]| -> Result<u64, FrameError> {
            Ok(u64::from_le_bytes(bytes.get(..8).and_then(|bytes| bytes.try_into().ok()).ok_or(FrameError::Short)?))
        };
        Ok(Received::Element(match kind {
            BATCH => StreamElement::Batch(self.batch(body)?),
            WATERMARK => StreamElement::Watermark(Watermark(number(&body)? as i64)),
            IDLE => StreamElement::Idle,
            BARRIER | UNALIGNED_BARRIER => {
                let checkpoint = CheckpointId(number(&body)?);
                let barrier = Barrier { checkpoint, kind: kind_of(*body.get(8).ok_or(FrameError::Short)?)? };
                if kind == BARRIER { StreamElement::Barrier(barrier) } else { StreamElement::UnalignedBarrier(barrier) }
            }
            CANCEL_BARRIER => StreamElement::CancelBarrier(CheckpointId(number(&body)?)),
            END => StreamElement::End,
            CREDIT | LIMIT => {
                let bytes = body.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or(FrameError::Short)?;
                let bytes = u32::from_le_bytes(bytes);
                return Ok(if kind == CREDIT { Received::Credit(bytes) } else { Received::Limit(bytes) });
            }
            other => return Err(FrameError::Kind(other)),
        }))
    }

    fn batch(&mut self, mut body: Buffer) -> Result<RecordBatch, FrameError> {
        while !body.is_empty() {
            if let Some(batch) = self.stream.decode(&mut body)? {
                return Ok(batch);
            }
        }
        Err(FrameError::Short)
    }
}

fn barrier_body(barrier: &Barrier) -> Vec<u8> {
    let mut body = barrier.checkpoint.0.to_le_bytes().to_vec();
    body.push(kind_number(barrier.kind));
    body
}

fn kind_number(kind: CheckpointKind) -> u8 {
    match kind {
        CheckpointKind::Checkpoint => 0,
        CheckpointKind::Savepoint => 1,
        CheckpointKind::Final => 2,
    }
}

fn kind_of(number: u8) -> Result<CheckpointKind, FrameError> {
    match number {
        0 => Ok(CheckpointKind::Checkpoint),
        1 => Ok(CheckpointKind::Savepoint),
        2 => Ok(CheckpointKind::Final),
        other => Err(FrameError::Kind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;
    use weir_model::AttemptNumber;

    fn read(decoder: &mut Decoder, frame: &Frame) -> Received {
        let mut bytes = frame.head.clone();
        frame.body.iter().for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(frame_length(bytes[..4].try_into().unwrap()).unwrap(), bytes.len() - 4);
        let (kind, channel) = split_header(bytes[4..9].try_into().unwrap());
        assert_eq!(channel, 7);
        let mut body = body_buffer(bytes.len() - 9);
        body.as_slice_mut().copy_from_slice(&bytes[9..]);
        decoder.decode(kind, body.into()).unwrap()
    }

    #[test]
    fn elements_come_back_as_they_were() {
        let batch = |from: i64| {
            let numbers = Arc::new(Int64Array::from_iter_values(from..from + 1000)) as _;
            let texts =
                Arc::new(StringArray::from_iter((0..1000).map(|row| (row % 3 != 0).then(|| format!("t{row}")))));
            RecordBatch::try_from_iter_with_nullable([("n", numbers, false), ("t", texts as _, true)]).unwrap()
        };
        let (mut encoder, mut decoder) = (Encoder::new(7, &batch(0).schema()).unwrap(), Decoder::default());
        for from in [0, 5000] {
            // A slice sends its own rows, not the whole it was cut from.
            let sent = batch(from).slice(10, 100);
            let frame = encoder.encode(&StreamElement::Batch(sent.clone())).unwrap();
            assert!(frame.body_bytes() < 8_000, "{} bytes", frame.body_bytes());
            match read(&mut decoder, &frame) {
                Received::Element(StreamElement::Batch(received)) => assert_eq!(received, sent),
                other => panic!("{other:?}"),
            }
        }
        let barrier = Barrier { checkpoint: CheckpointId(9), kind: CheckpointKind::Savepoint };
        for element in [
            StreamElement::Watermark(Watermark(-5)),
            StreamElement::Idle,
            StreamElement::Barrier(barrier),
            StreamElement::UnalignedBarrier(barrier),
            StreamElement::CancelBarrier(CheckpointId(3)),
            StreamElement::End,
        ] {
            match read(&mut decoder, &encoder.encode(&element).unwrap()) {
                Received::Element(received) => assert_eq!(format!("{received:?}"), format!("{element:?}")),
                other => panic!("{other:?}"),
            }
        }
        let returned = Frame { head: credit(7, 4096), body: vec![] };
        assert!(matches!(read(&mut decoder, &returned), Received::Credit(4096)));
        let limited = Frame { head: limit(7, 8192), body: vec![] };
        assert!(matches!(read(&mut decoder, &limited), Received::Limit(8192)));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let fence = Fence { epoch: Epoch(3), attempt: AttemptNumber(4) };
        let hello = Hello { fence, from: WorkerId(1), to: WorkerId(2) };
        assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        let mut wrong = hello.encode();
        wrong[0] ^= 1;
        assert!(matches!(Hello::decode(&wrong), Err(FrameError::Magic)));
        assert!(frame_length([0xff; 4]).is_err());
        assert!(frame_length([1, 0, 0, 0]).is_err());
        let mut decoder = Decoder::default();
        assert!(matches!(decoder.decode(99, Buffer::from(vec![0u8; 8])), Err(FrameError::Kind(99))));
        assert!(matches!(decoder.decode(WATERMARK, Buffer::from(vec![0u8; 3])), Err(FrameError::Short)));
        assert!(decoder.decode(BATCH, Buffer::from(vec![7u8; 64])).is_err());
    }
}
