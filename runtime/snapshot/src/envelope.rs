//! The form of every JSON file here: `{"format_version":1,"crc32c":N,"content":{..}}`.
//!
//! The checksum is over the text of `content` as it stands in the file, so that no byte of it can change unseen.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

/// The only version of every format in this crate so far.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Why a file was refused; the caller adds the file's name.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not a file of this kind, or damaged: {0}")]
    Malformed(String),
    #[error("format version {0} is newer than this build reads (1): use a newer Weir")]
    UnknownVersion(u32),
    #[error("damaged: its content has checksum {actual:08x}, and it says {stated:08x}")]
    Checksum { stated: u32, actual: u32 },
}

pub(crate) fn seal(content: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    seal_raw(to_raw_value(content)?)
}

/// With line breaks and indentation: for files that people open.
pub(crate) fn seal_pretty(content: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    seal_raw(RawValue::from_string(serde_json::to_string_pretty(content)?)?)
}

fn seal_raw(content: Box<RawValue>) -> Result<Bytes, serde_json::Error> {
    let crc32c = crc32c::crc32c(content.get().as_bytes());
    let envelope = Envelope { format_version: FORMAT_VERSION, crc32c, content };
    serde_json::to_vec(&envelope).map(Bytes::from)
}

pub(crate) fn open<T: DeserializeOwned>(file: &[u8]) -> Result<T, EnvelopeError> {
    let malformed = |error: serde_json::Error| EnvelopeError::Malformed(error.to_string());
    // The version first, and leniently: a newer file may look different otherwise.
    let version: Version = serde_json::from_slice(file).map_err(malformed)?;
    if version.format_version != FORMAT_VERSION {
        return Err(EnvelopeError::UnknownVersion(version.format_version));
    }
    let envelope: Envelope = serde_json::from_slice(file).map_err(malformed)?;
    let actual = crc32c::crc32c(envelope.content.get().as_bytes());
    if actual != envelope.crc32c {
        return Err(EnvelopeError::Checksum { stated: envelope.crc32c, actual });
    }
    serde_json::from_str(envelope.content.get()).map_err(malformed)
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format_version: u32,
    crc32c: u32,
    content: Box<RawValue>,
}

#[derive(serde::Deserialize)]
struct Version {
    format_version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealed = seal(&json!({"a": [1, 2.5, "text"], "b": null})).unwrap();
        open::<Value>(&sealed).unwrap();
        for place in 0..sealed.len() {
            for value in 0..=255u8 {
                let mut changed = sealed.to_vec();
                if changed[place] != value {
                    changed[place] = value;
                    assert!(open::<Value>(&changed).is_err(), "byte {place} set to {value}: {changed:?}");
                }
            }
            assert!(open::<Value>(&sealed[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn pretty_files_open_too() {
        let content = json!({"rows": 3});
        let sealed = seal_pretty(&content).unwrap();
        assert!(sealed.contains(&b'\n'));
        assert_eq!(open::<Value>(&sealed).unwrap(), content);
    }

    #[test]
    fn a_newer_version_says_so() {
        let error = open::<Value>(br#"{"format_version":2,"anything":{}}"#).unwrap_err();
        assert_eq!(error.to_string(), "format version 2 is newer than this build reads (1): use a newer Weir");
    }
}
