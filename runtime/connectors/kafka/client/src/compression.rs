//! How record batches are compressed.

use crate::error::{KafkaError, Result};
use std::io::{Read, Write};

/// A batch that grows beyond this is not one that a broker would have taken.
const MAX_DECOMPRESSED_BYTES: u64 = 512 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// By the value of `compression.type`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "snappy" => Compression::Snappy,
            "lz4" => Compression::Lz4,
            "zstd" => Compression::Zstd,
            _ => return None,
        })
    }

    /// The lowest three bits of a batch's attributes.
    pub(crate) fn code(self) -> i16 {
        self as i16
    }

    pub(crate) fn of_attributes(attributes: i16) -> Result<Self> {
        Ok(match attributes & 7 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => return Err(KafkaError::Unusable(format!("a batch has the unknown compression {other}"))),
        })
    }

    /// Appends the compressed bytes.
    pub(crate) fn compress(self, records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Compression::None => out.extend_from_slice(records),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(records)?;
                encoder.finish()?;
            }
            Compression::Snappy => snappy(records, out)?,
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(records)?;
                encoder.finish().map_err(std::io::Error::other)?;
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 0)?;
                encoder.write_all(records)?;
                encoder.finish()?;
            }
        }
        Ok(())
    }

    pub(crate) fn decompress(self, bytes: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut limited: Box<dyn Read + '_> = match self {
            Compression::None => Box::new(bytes),
            Compression::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            Compression::Snappy => return unsnappy(bytes, out),
            Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        };
        let taken = (&mut limited).take(MAX_DECOMPRESSED_BYTES + 1).read_to_end(out)?;
        if taken as u64 > MAX_DECOMPRESSED_BYTES {
            return Err(std::io::Error::other("the batch is larger than 512 MiB"));
        }
        Ok(())
    }
}

/// Of the framing that Kafka's Java client has around raw Snappy blocks: magic, version, lowest compatible version.
const SNAPPY_HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;

fn snappy(records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    out.extend_from_slice(&SNAPPY_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(std::io::Error::other)?;
        out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

/// With the Java client's framing, or raw as other clients write it.
fn unsnappy(bytes: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(mut blocks) = bytes.strip_prefix(&SNAPPY_HEADER[..8]).and_then(|rest| rest.get(8..)) else {
        return append_snappy(bytes, out);
    };
    while !blocks.is_empty() {
        let cut = || std::io::Error::other("a Snappy block is cut off");
        let (length, rest) = blocks.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_be_bytes(*length) as usize;
        append_snappy(rest.get(..length).ok_or_else(cut)?, out)?;
        blocks = &rest[length..];
    }
    Ok(())
}

fn append_snappy(block: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    let length = snap::raw::decompress_len(block).map_err(std::io::Error::other)?;
    let start = out.len();
    if (start + length) as u64 > MAX_DECOMPRESSED_BYTES {
        return Err(std::io::Error::other("the batch is larger than 512 MiB"));
    }
    out.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(std::io::Error::other)?;
    Ok(())
}
