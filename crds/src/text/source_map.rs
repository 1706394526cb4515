//! The way from a field path back to the file.

use super::{
    Diagnostic, Position,
    check::node_length,
    scalar::text_position,
    tree::{Content, Entry, Node},
};
use crate::validate::Violation;

/// Where each field of a document stands in its file.
#[derive(Clone, Debug)]
pub struct SourceMap {
    document: Node,
    lines: Vec<String>,
}

/// A place in the file, and how many characters from there on are the field's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    pub position: Position,
    pub length: usize,
}

enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

impl SourceMap {
    pub(super) fn new(document: Node, text: &str) -> Self {
        Self { document, lines: text.lines().map(str::to_owned).collect() }
    }

    /// Where a field stands: its value if that is a text on the line of its key, else its key. Where it is absent: the
    /// nearest field around it.
    pub fn locate(&self, field_path: &str) -> Option<Located> {
        let (node, entry, complete) = self.find(field_path)?;
        Some(match (&node.content, entry) {
            (_, Some(entry)) if !complete || node.is_null() || node.start.line != entry.key_start.line => at_key(entry),
            // A collection, or a text over many lines, is too much to point at.
            (Content::Mapping(_) | Content::Sequence(_), Some(entry)) => at_key(entry),
            (Content::Scalar(scalar), Some(entry)) if is_block(scalar.style) => at_key(entry),
            _ => Located { position: node.start, length: node_length(node) },
        })
    }

    /// The place in the file of a place in the text of a field; `None` where the field is no text of the file.
    pub fn map_text_position(&self, field_path: &str, place: Position) -> Option<Position> {
        let (node, _, complete) = self.find(field_path)?;
        let Content::Scalar(scalar) = &node.content else { return None };
        complete.then(|| text_position(&self.lines, node, scalar, place))
    }

    pub(super) fn diagnostic(&self, violation: Violation) -> Diagnostic {
        let Violation { severity, field_path, reason, remedy } = violation;
        let located = self.locate(&field_path).unwrap_or(Located { position: Position::START, length: 1 });
        Diagnostic { severity, position: located.position, length: located.length, field_path, reason, remedy }
    }

    /// The deepest node on the path, the entry it is the value of, and whether it is the path's end.
    fn find(&self, field_path: &str) -> Option<(&Node, Option<&Entry>, bool)> {
        let mut node = &self.document;
        let mut entry = None;
        for segment in segments(field_path) {
            match (&node.content, segment) {
                (Content::Mapping(entries), Segment::Field(name)) => {
                    match entries.iter().find(|candidate| candidate.key == name) {
                        Some(found) => (node, entry) = (&found.value, Some(found)),
                        None => return Some((node, entry, false)),
                    }
                }
                (Content::Sequence(items), Segment::Index(index)) => match items.get(index) {
                    Some(item) => (node, entry) = (item, None),
                    None => return Some((node, entry, false)),
                },
                _ => return Some((node, entry, false)),
            }
        }
        Some((node, entry, true))
    }
}

fn at_key(entry: &Entry) -> Located {
    Located { position: entry.key_start, length: entry.key.chars().count() }
}

fn is_block(style: saphyr_parser::ScalarStyle) -> bool {
    matches!(style, saphyr_parser::ScalarStyle::Literal | saphyr_parser::ScalarStyle::Folded)
}

/// `spec.pipeline.sources[0].kafka.properties[client.id]` in its parts.
fn segments(field_path: &str) -> Vec<Segment<'_>> {
    let mut segments = Vec::new();
    let mut rest = field_path;
    while !rest.is_empty() {
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (inside, after) = bracketed.split_once(']').unwrap_or((bracketed, ""));
            segments.push(inside.parse().map_or(Segment::Field(inside), Segment::Index));
            rest = after;
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let end = field.find(['.', '[']).unwrap_or(field.len());
            segments.push(Segment::Field(&field[..end]));
            rest = &field[end..];
        }
    }
    segments
}
