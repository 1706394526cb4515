//! How the elements in flight of an unaligned checkpoint stand in a worker's object: one segment for a subtask.
//!
//! ```text
//! segment: "wif1" | length u32 of the header | header | one Arrow IPC stream for each channel with batches
//! ```
//! The header is JSON: for each channel where it comes from, how far its event time had come, and what follows what.
//! Numbers are little-endian. The checksum of the whole stands in the manifest.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use weir_model::{ChannelInFlight, ChannelProgress, InFlightElement, SubtaskInFlight, Watermark};

/// Also the version of the format.
const MAGIC: [u8; 4] = *b"wif1";
const PREFIX_BYTES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum InFlightError {
    #[error("not rows in flight as this version of Weir writes them")]
    Magic,
    #[error("it ends too early")]
    Short,
    #[error("its header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error("its header speaks of other batches than follow")]
    Batches,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    watermark: Watermark,
    channels: Vec<Channel>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel {
    input: usize,
    from: u32,
    progress: ChannelProgress,
    elements: Vec<Element>,
    /// Of its stream.
    length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Element {
    /// The next batch of the channel's stream.
    Batch,
    Watermark(Watermark),
    Idle,
}

pub fn encode(in_flight: &SubtaskInFlight) -> Result<Vec<u8>, InFlightError> {
    let SubtaskInFlight { watermark, channels } = in_flight;
    let mut streams = vec![];
    let mut header = Header { watermark: *watermark, channels: vec![] };
    for ChannelInFlight { input, from, progress, elements } in channels {
        let before = streams.len();
        write_batches(elements, &mut streams)?;
        header.channels.push(Channel {
            input: *input,
            from: *from,
            progress: *progress,
            elements: elements.iter().map(Element::of).collect(),
            length: (streams.len() - before) as u64,
        });
    }
    let header = serde_json::to_vec(&header)?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + header.len() + streams.len());
    bytes.extend(MAGIC);
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    bytes.extend(streams);
    Ok(bytes)
}

pub fn decode(bytes: &[u8]) -> Result<SubtaskInFlight, InFlightError> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX_BYTES).ok_or(InFlightError::Short)?;
    let (magic, length) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(InFlightError::Magic);
    }
    let length = u32::from_le_bytes(length.try_into().expect("the other half of eight bytes"));
    let (header, mut rest) = rest.split_at_checked(length as usize).ok_or(InFlightError::Short)?;
    let Header { watermark, channels } = serde_json::from_slice(header)?;
    let mut decoded = vec![];
    for Channel { input, from, progress, elements, length } in channels {
        let length = usize::try_from(length).map_err(|_| InFlightError::Short)?;
        let (stream, after) = rest.split_at_checked(length).ok_or(InFlightError::Short)?;
        rest = after;
        let elements = read_elements(elements, stream)?;
        decoded.push(ChannelInFlight { input, from, progress, elements });
    }
    if rest.is_empty() { Ok(SubtaskInFlight { watermark, channels: decoded }) } else { Err(InFlightError::Batches) }
}

fn write_batches(elements: &[InFlightElement], streams: &mut Vec<u8>) -> Result<(), InFlightError> {
    let mut writer = None;
    for element in elements {
        let InFlightElement::Batch(batch) = element else { continue };
        if writer.is_none() {
            writer = Some(StreamWriter::try_new(&mut *streams, &batch.schema())?);
        }
        if let Some(writer) = &mut writer {
            writer.write(batch)?;
        }
    }
    if let Some(mut writer) = writer {
        writer.finish()?;
    }
    Ok(())
}

fn read_elements(elements: Vec<Element>, stream: &[u8]) -> Result<Vec<InFlightElement>, InFlightError> {
    let mut batches: VecDeque<RecordBatch> = match stream {
        [] => VecDeque::new(),
        stream => StreamReader::try_new(stream, None)?.collect::<Result<_, _>>()?,
    };
    let element = |element| {
        Ok(match element {
            Element::Batch => InFlightElement::Batch(batches.pop_front().ok_or(InFlightError::Batches)?),
            Element::Watermark(watermark) => InFlightElement::Watermark(watermark),
            Element::Idle => InFlightElement::Idle,
        })
    };
    let elements = elements.into_iter().map(element).collect::<Result<_, InFlightError>>()?;
    if batches.is_empty() { Ok(elements) } else { Err(InFlightError::Batches) }
}

impl Element {
    fn of(element: &InFlightElement) -> Self {
        match element {
            InFlightElement::Batch(_) => Element::Batch,
            InFlightElement::Watermark(watermark) => Element::Watermark(*watermark),
            InFlightElement::Idle => Element::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::path::Path;
    use std::sync::Arc;

    fn batch(from: i64) -> InFlightElement {
        let numbers = Arc::new(Int64Array::from_iter_values(from..from + 5)) as _;
        let texts = Arc::new(StringArray::from_iter((0..5).map(|row| (row != 3).then(|| format!("t{row}"))))) as _;
        let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, false), ("t", texts, true)]);
        InFlightElement::Batch(batch.unwrap().slice(1, 3))
    }

    fn in_flight() -> SubtaskInFlight {
        let channel = |input, from, elements| ChannelInFlight {
            input,
            from,
            progress: ChannelProgress { watermark: Watermark(from as i64), idle: input == 1, ended: false },
            elements,
        };
        let first = vec![batch(0), InFlightElement::Watermark(Watermark(7)), batch(10), InFlightElement::Idle];
        SubtaskInFlight {
            watermark: Watermark::MIN,
            channels: vec![channel(0, 0, first), channel(0, 1, vec![]), channel(1, 0, vec![batch(20)])],
        }
    }

    #[test]
    fn elements_come_back_as_they_were() {
        let bytes = encode(&in_flight()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), in_flight());
    }

    /// What was written once is read for ever. `WEIR_BLESS=1` writes it anew, for a version that has not been released.
    #[test]
    fn format_1_is_read_as_ever() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1/in-flight.bin");
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(&file, encode(&in_flight()).unwrap()).unwrap();
        }
        assert_eq!(decode(&std::fs::read(file).unwrap()).unwrap(), in_flight());
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let bytes = encode(&in_flight()).unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
        let mut other = bytes.clone();
        other[3] = b'2';
        assert!(matches!(decode(&other), Err(InFlightError::Magic)));
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode(&longer), Err(InFlightError::Batches)));
    }
}
