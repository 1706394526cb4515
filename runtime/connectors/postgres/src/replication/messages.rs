//! What the server's output plugin `pgoutput` says, version 1 of its protocol: each transaction whole, in the order of
//! their commits.

use super::Lsn;
use bytes::{Buf, Bytes};
use weir_connectors::api::ConnectorError;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// `commit`: where the record of its commit begins.
    Begin {
        commit: Lsn,
    },
    /// `end`: behind that record.
    Commit {
        end: Lsn,
    },
    Relation(Relation),
    Change(Change),
    Truncate {
        relations: Vec<u32>,
    },
    /// What says nothing of rows: an origin, a type.
    Other,
}

/// A table as it was when the changes that follow were made. Said before the first of them, and again when it differs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) table: String,
    /// Name and type of each column.
    pub(crate) columns: Vec<(String, u32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) relation: u32,
    /// As it was, whole. None: it was inserted, or the server doesn't say.
    pub(crate) before: Option<Values>,
    /// As it is. None: it was deleted.
    pub(crate) after: Option<Values>,
    /// Whether the server said of what was before only its key, or nothing.
    pub(crate) is_before_partial: bool,
}

/// The values of a row, not yet looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Values {
    count: u16,
    bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    /// A value stored out of line that the update left as it was.
    Unchanged,
    /// As text, in the client's encoding.
    Text(Bytes),
}

impl Message {
    pub(crate) fn parse(bytes: Bytes) -> Result<Message, ConnectorError> {
        let kind = bytes.first().copied();
        parse(bytes).ok_or_else(|| {
            let kind = kind.map_or_else(|| "nothing".to_owned(), |kind| format!("`{}`", char::from(kind)));
            ConnectorError::Permanent(format!("a message of the replication stream ({kind}) cannot be read"))
        })
    }
}

fn parse(mut bytes: Bytes) -> Option<Message> {
    Some(match bytes.try_get_u8().ok()? {
        b'B' => Message::Begin { commit: Lsn(bytes.try_get_u64().ok()?) },
        b'C' => {
            let (_flags, _commit) = (bytes.try_get_u8().ok()?, bytes.try_get_u64().ok()?);
            Message::Commit { end: Lsn(bytes.try_get_u64().ok()?) }
        }
        b'R' => {
            let id = bytes.try_get_u32().ok()?;
            let (schema, table) = (text(&mut bytes)?, text(&mut bytes)?);
            let _replica_identity = bytes.try_get_u8().ok()?;
            let mut columns = Vec::new();
            for _ in 0..bytes.try_get_u16().ok()? {
                let _flags = bytes.try_get_u8().ok()?;
                let name = text(&mut bytes)?;
                columns.push((name, bytes.try_get_u32().ok()?));
                let _modifier = bytes.try_get_i32().ok()?;
            }
            // An empty schema is how it writes `pg_catalog`.
            Message::Relation(Relation { id, schema, table, columns })
        }
        b'I' => {
            let relation = bytes.try_get_u32().ok()?;
            let (_, after) = tagged(&mut bytes)?;
            Message::Change(Change { relation, before: None, after: Some(after), is_before_partial: false })
        }
        b'U' => {
            let relation = bytes.try_get_u32().ok()?;
            let (tag, first) = tagged(&mut bytes)?;
            let (before, after) = match tag {
                b'O' => (Some(first), tagged(&mut bytes)?.1),
                b'K' => (None, tagged(&mut bytes)?.1),
                _ => (None, first),
            };
            let is_before_partial = before.is_none();
            Message::Change(Change { relation, before, after: Some(after), is_before_partial })
        }
        b'D' => {
            let relation = bytes.try_get_u32().ok()?;
            let (tag, before) = tagged(&mut bytes)?;
            let is_before_partial = tag != b'O';
            Message::Change(Change { relation, before: Some(before), after: None, is_before_partial })
        }
        b'T' => {
            let (count, _options) = (bytes.try_get_u32().ok()?, bytes.try_get_u8().ok()?);
            let relations = (0..count).map(|_| bytes.try_get_u32().ok()).collect::<Option<_>>()?;
            Message::Truncate { relations }
        }
        _ => Message::Other,
    })
}

/// A row behind its tag: `N`ew, `O`ld, or the old `K`ey.
fn tagged(bytes: &mut Bytes) -> Option<(u8, Values)> {
    let tag = bytes.try_get_u8().ok()?;
    let count = bytes.try_get_u16().ok()?;
    let mut rest = bytes.clone();
    for _ in 0..count {
        next_value(&mut rest)?;
    }
    let length = bytes.len() - rest.len();
    let values = Values { count, bytes: bytes.split_to(length) };
    Some((tag, values))
}

fn next_value(bytes: &mut Bytes) -> Option<Value> {
    Some(match bytes.try_get_u8().ok()? {
        b'n' => Value::Null,
        b'u' => Value::Unchanged,
        b't' => {
            let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
            if bytes.len() < length {
                return None;
            }
            Value::Text(bytes.split_to(length))
        }
        _ => return None,
    })
}

fn text(bytes: &mut Bytes) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8(bytes.split_to(end).to_vec()).ok()?;
    bytes.advance(1);
    Some(text)
}

impl Values {
    /// One for each column of the relation.
    pub(crate) fn read(&self) -> Vec<Value> {
        let mut bytes = self.bytes.clone();
        (0..self.count).map(|_| next_value(&mut bytes).expect("looked through when it came")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tag: u8, values: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                None => bytes.push(b'n'),
                Some("unchanged") => bytes.push(b'u'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend((text.len() as u32).to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn change(kind: u8, rows: &[Vec<u8>]) -> Bytes {
        let mut bytes = vec![kind];
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend(rows.concat());
        bytes.into()
    }

    #[test]
    fn an_update_with_the_whole_row_before_it() {
        let bytes = change(b'U', &[row(b'O', &[Some("1"), None]), row(b'N', &[Some("2"), Some("unchanged")])]);
        let Ok(Message::Change(change)) = Message::parse(bytes) else { panic!("no change") };
        assert_eq!(change.before.unwrap().read(), [Value::Text("1".into()), Value::Null]);
        assert_eq!(change.after.unwrap().read(), [Value::Text("2".into()), Value::Unchanged]);
        assert!(!change.is_before_partial);
    }

    #[test]
    fn a_delete_that_says_the_key_alone() {
        let Ok(Message::Change(change)) = Message::parse(change(b'D', &[row(b'K', &[Some("1"), None])])) else {
            panic!("no change")
        };
        assert!(change.is_before_partial && change.after.is_none());
    }

    /// Cut off anywhere, with any byte wrong: an error or another message, never a panic.
    #[test]
    fn broken_messages_are_errors() {
        let whole = change(b'U', &[row(b'O', &[Some("1"), None]), row(b'N', &[Some("23"), Some("unchanged")])]);
        for length in 0..whole.len() {
            assert!(Message::parse(whole.slice(..length)).is_err(), "{length} bytes");
        }
        let mut relation = vec![b'R', 0, 0, 0, 7];
        relation.extend(b"public\0orders\0f\x00\x01\x01id\0\x00\x00\x00\x14\xff\xff\xff\xff");
        assert!(matches!(Message::parse(relation.clone().into()), Ok(Message::Relation(_))));
        for message in [whole.to_vec(), relation] {
            for at in 0..message.len() {
                for byte in [0, 1, b't', 0xff] {
                    let mut broken = message.clone();
                    broken[at] = byte;
                    let _ = Message::parse(broken.into()).map(|message| match message {
                        Message::Change(change) => change.after.map(|after| after.read().len()),
                        _ => None,
                    });
                }
            }
        }
    }
}
