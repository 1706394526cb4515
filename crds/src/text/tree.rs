//! YAML as a tree in which everything knows where it stands.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use super::{Diagnostic, Position, Severity};

/// A job file larger than this is refused: the API server's own limit for a resource is 1.5 MiB.
const MAX_TEXT_BYTES: usize = 1_500_000;
/// Deeper nesting is refused, so that no file can exhaust the stack.
const MAX_DEPTH: usize = 64;
/// More nodes are refused. Aliases are copied, and a few lines of them can stand for billions.
const MAX_NODES: usize = 200_000;

/// A YAML value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where the value begins.
    pub start: Position,
    /// Where it ends, exclusive.
    pub end: Position,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    Mapping(Vec<Entry>),
    Sequence(Vec<Node>),
}

/// One `key: value`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_start: Position,
    pub value: Node,
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub text: String,
    pub style: ScalarStyle,
    /// `!!str` stands before it.
    pub forced_text: bool,
}

/// What a scalar means by YAML's core schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meaning {
    Null,
    Boolean(bool),
    Integer(Number),
    Float(f64),
    Text,
}

impl Scalar {
    pub(crate) fn meaning(&self) -> Meaning {
        if self.style != ScalarStyle::Plain || self.forced_text {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
            "true" | "True" | "TRUE" => return Meaning::Boolean(true),
            "false" | "False" | "FALSE" => return Meaning::Boolean(false),
            _ => {}
        }
        integer(&self.text)
            .map(Meaning::Integer)
            .or_else(|| float(&self.text).map(Meaning::Float))
            .unwrap_or(Meaning::Text)
    }
}

fn integer(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Number::from);
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok()
}

fn float(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        ".inf" | "+.inf" => return Some(f64::INFINITY),
        "-.inf" => return Some(f64::NEG_INFINITY),
        ".nan" => return Some(f64::NAN),
        _ => {}
    }
    // Rust reads words such as `inf` and `infinity` as numbers; YAML does not.
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    (numeric && text.bytes().any(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

impl Node {
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Mapping(entries) => Some(entries),
            Content::Scalar(_) | Content::Sequence(_) => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) => Some(&scalar.text),
            Content::Mapping(_) | Content::Sequence(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// What it is, for a message: `a list`, `the text "x"`.
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            Content::Mapping(_) => "a mapping".to_owned(),
            Content::Sequence(_) => "a list".to_owned(),
            Content::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing".to_owned(),
                Meaning::Boolean(_) => format!("the boolean {}", scalar.text),
                Meaning::Integer(_) | Meaning::Float(_) => format!("the number {}", scalar.text),
                Meaning::Text => format!("the text \"{}\"", shortened(&scalar.text)),
            },
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Mapping(entries) => {
                let fields: Map<String, Value> =
                    entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect();
                Value::Object(fields)
            }
            Content::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => Value::Null,
                Meaning::Boolean(value) => Value::Bool(value),
                Meaning::Integer(number) => Value::Number(number),
                Meaning::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
                Meaning::Text => Value::String(scalar.text.clone()),
            },
        }
    }
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// Every document of a YAML text, as far as it can be read, and what is wrong with its syntax.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Vec<Diagnostic>) {
    let mut builder = Builder::default();
    if text.len() > MAX_TEXT_BYTES {
        builder.refuse(
            Position::START,
            "the file is larger than 1.5 MB",
            "a StreamJob must fit into one Kubernetes resource",
        );
        return (builder.documents, builder.diagnostics);
    }
    for event in Parser::new_from_str(text) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let at = Position { line: error.marker().line().max(1), column: error.marker().col() + 1 };
                let (reason, remedy) = syntax_message(error.info(), text.lines().nth(at.line - 1).unwrap_or_default());
                builder.refuse(at, &reason, &remedy);
                false
            }
        };
        if !taken {
            break;
        }
    }
    (builder.documents, builder.diagnostics)
}

fn syntax_message(info: &str, line: &str) -> (String, String) {
    let reason = format!("this is not YAML: {info}");
    let indentation = &line[..line.len() - line.trim_start().len()];
    let remedy = if indentation.contains('\t') {
        "use spaces for indentation; YAML does not allow tabs"
    } else if line.matches('"').count() % 2 == 1 || line.matches('\'').count() % 2 == 1 {
        "close the quote"
    } else if line.trim_end().ends_with(['{', '[', ',']) || line.contains('{') != line.contains('}') {
        "check that every { and [ is closed"
    } else {
        "check the indentation of this line and the one before, and put texts with `: ` or ` #` in quotes"
    };
    (reason, remedy.to_owned())
}

/// A collection that is being read.
struct Open {
    start: Position,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Mapping { entries: Vec<Entry>, key: Option<(String, Position)> },
    Sequence(Vec<Node>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    diagnostics: Vec<Diagnostic>,
    open: Vec<Open>,
    /// Anchored values with the number of nodes in each.
    anchors: Vec<(usize, Node, usize)>,
    nodes: usize,
}

impl Builder {
    /// Takes one event; `false` where reading must stop.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let (start, end) = (position(span.start), position(span.end));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                let scalar = Scalar { text: text.into_owned(), style, forced_text };
                self.value(Node { start, end, content: Content::Scalar(scalar) }, anchor, 1)
            }
            Event::MappingStart(anchor, _) => {
                self.open(start, anchor, OpenKind::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceStart(anchor, _) => self.open(start, anchor, OpenKind::Sequence(Vec::new())),
            Event::MappingEnd | Event::SequenceEnd => self.close(end),
            Event::Alias(anchor) => match self.anchors.iter().rev().find(|(id, _, _)| *id == anchor) {
                Some((_, node, nodes)) => {
                    let (node, nodes) = (Node { start, end, ..node.clone() }, *nodes);
                    self.value(node, 0, nodes)
                }
                None => self.refuse(start, "this alias names no anchor", "define it before, as `&name`"),
            },
            Event::DocumentStart(_) => {
                self.anchors.clear();
                true
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
        }
    }

    fn open(&mut self, start: Position, anchor: usize, kind: OpenKind) -> bool {
        if self.open.len() >= MAX_DEPTH {
            return self.refuse(start, &format!("nested deeper than {MAX_DEPTH} levels"), "flatten it");
        }
        self.open.push(Open { start, anchor, kind });
        true
    }

    fn close(&mut self, end: Position) -> bool {
        let Some(Open { start, anchor, kind }) = self.open.pop() else {
            return self.refuse(end, "a collection ends that never began", "check the indentation");
        };
        let content = match kind {
            OpenKind::Mapping { entries, .. } => Content::Mapping(entries),
            OpenKind::Sequence(items) => Content::Sequence(items),
        };
        self.value(Node { start, end, content }, anchor, 1)
    }

    fn value(&mut self, node: Node, anchor: usize, nodes: usize) -> bool {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return self.refuse(node.start, &format!("more than {MAX_NODES} values"), "use fewer aliases");
        }
        if anchor > 0 {
            let size = size(&node);
            self.anchors.push((anchor, node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return true;
        };
        match &mut open.kind {
            OpenKind::Sequence(items) => items.push(node),
            OpenKind::Mapping { entries, key } => match key.take() {
                Some((key, key_start)) => entries.push(Entry { key, key_start, value: node }),
                None => return self.key(node),
            },
        }
        true
    }

    fn key(&mut self, node: Node) -> bool {
        let Some(name) = node.text().map(str::to_owned) else {
            return self.refuse(node.start, &format!("a key cannot be {}", node.describe()), "write a plain word");
        };
        let Some(Open { kind: OpenKind::Mapping { entries, key }, .. }) = self.open.last_mut() else {
            unreachable!("a key stands in an open mapping");
        };
        let first = entries.iter().find(|entry| entry.key == name).map(|entry| entry.key_start);
        *key = Some((name.clone(), node.start));
        if let Some(first) = first {
            let reason = format!("`{name}` stands here twice, first in line {}", first.line);
            self.refuse(node.start, &reason, "remove one of the two");
            if let Some(refused) = self.diagnostics.last_mut() {
                refused.length = name.chars().count();
            }
        }
        // Reading goes on after a second key: the other mistakes are wanted too.
        true
    }

    fn refuse(&mut self, at: Position, reason: &str, remedy: &str) -> bool {
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            position: at,
            length: 1,
            field_path: String::new(),
            reason: reason.to_owned(),
            remedy: remedy.to_owned(),
        });
        false
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::Scalar(_) => 0,
        Content::Mapping(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        Content::Sequence(items) => items.iter().map(size).sum(),
    }
}

fn position(marker: saphyr_parser::Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}
