//! From a place in a text to the place in the YAML that the text was written in.

use saphyr_parser::ScalarStyle;

use super::{
    Position,
    tree::{Node, Scalar},
};

/// The place in the file of a place in the text of `scalar`. A place beyond the text is its end.
pub(super) fn text_position(lines: &[String], node: &Node, scalar: &Scalar, place: Position) -> Position {
    match scalar.style {
        ScalarStyle::Literal => literal_position(lines, node, &scalar.text, place),
        ScalarStyle::Folded | ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
            aligned_position(lines, node, scalar, place)
        }
    }
}

/// A literal block keeps its lines: line 1 of the text is the line below `|`, moved right by the indentation.
fn literal_position(lines: &[String], node: &Node, text: &str, place: Position) -> Position {
    let first_line = first_content_line(lines, node);
    let indentation = block_indentation(lines, first_line, text);
    let text_lines: Vec<&str> = text.lines().collect();
    let last = text_lines.len().max(1);
    let (line, column) = if place.line > last {
        (last, text_lines.last().map_or(1, |line| line.chars().count() + 1))
    } else {
        let length = text_lines.get(place.line.saturating_sub(1)).map_or(0, |line| line.chars().count());
        (place.line.max(1), place.column.clamp(1, length + 1))
    };
    Position { line: first_line + line - 1, column: indentation + column }
}

/// The line (from 1) after the one with the block's `|` or `>`.
fn first_content_line(lines: &[String], node: &Node) -> usize {
    let header = lines.get(node.start.line - 1).is_some_and(|line| {
        let rest: String = line.chars().skip(node.start.column - 1).collect();
        rest.starts_with(['|', '>'])
    });
    if header { node.start.line + 1 } else { node.start.line }
}

/// How far a block's lines are moved right: told from the first line that is not blank.
fn block_indentation(lines: &[String], first_line: usize, text: &str) -> usize {
    let spaces = |line: &str| line.chars().take_while(|c| *c == ' ').count();
    text.lines()
        .enumerate()
        .find(|(_, line)| !line.trim().is_empty())
        .and_then(|(index, line)| {
            let source = lines.get(first_line - 1 + index)?;
            Some(spaces(source).saturating_sub(spaces(line)))
        })
        .unwrap_or(0)
}

/// Walks text and source side by side: line breaks fold into spaces, quotes double, escapes stand for one character.
fn aligned_position(lines: &[String], node: &Node, scalar: &Scalar, place: Position) -> Position {
    let mut source = Cursor::at_start(lines, node, scalar.style);
    let mut at = Position { line: 1, column: 1 };
    for character in scalar.text.chars() {
        source.align(character);
        if at >= place {
            return source.position();
        }
        source.advance(character);
        at = match character {
            '\n' => Position { line: at.line + 1, column: 1 },
            _ => Position { line: at.line, column: at.column + 1 },
        };
    }
    source.position()
}

struct Cursor<'a> {
    lines: &'a [String],
    style: ScalarStyle,
    line: usize,
    /// The characters of the line, and the next one's index.
    characters: Vec<char>,
    next: usize,
}

impl<'a> Cursor<'a> {
    fn at_start(lines: &'a [String], node: &Node, style: ScalarStyle) -> Self {
        let (line, next) = match style {
            ScalarStyle::Folded => (first_content_line(lines, node), 0),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => (node.start.line, node.start.column),
            ScalarStyle::Plain | ScalarStyle::Literal => (node.start.line, node.start.column - 1),
        };
        let mut cursor = Self { lines, style, line, characters: Vec::new(), next };
        cursor.load();
        cursor
    }

    fn load(&mut self) {
        self.characters = self.lines.get(self.line - 1).map(|line| line.chars().collect()).unwrap_or_default();
    }

    /// Moves to the source of the text's next character.
    fn align(&mut self, character: char) {
        if !character.is_whitespace() {
            self.skip_white_space();
        } else if self.next >= self.characters.len() {
            // A folded line break: it is shown at the line's end.
            return;
        }
        if self.style == ScalarStyle::DoubleQuoted && self.rest().starts_with(&['\\']) && self.rest().len() == 1 {
            // An escaped line break joins the lines.
            self.next_line();
            self.skip_white_space();
        }
    }

    /// Moves over the source of `character`.
    fn advance(&mut self, character: char) {
        if self.next >= self.characters.len() {
            self.next_line();
            return;
        }
        let rest = self.rest();
        self.next += match (self.style, rest) {
            (ScalarStyle::SingleQuoted, ['\'', '\'', ..]) => 2,
            (ScalarStyle::DoubleQuoted, ['\\', 'x', ..]) => 4,
            (ScalarStyle::DoubleQuoted, ['\\', 'u', ..]) => 6,
            (ScalarStyle::DoubleQuoted, ['\\', 'U', ..]) => 10,
            (ScalarStyle::DoubleQuoted, ['\\', ..]) => 2,
            _ => 1,
        };
        if character == '\n' && self.style == ScalarStyle::Folded {
            self.next_line();
        }
    }

    fn skip_white_space(&mut self) {
        loop {
            while self.characters.get(self.next).is_some_and(|c| c.is_whitespace()) {
                self.next += 1;
            }
            if self.next < self.characters.len() || self.line >= self.lines.len() {
                return;
            }
            self.next_line();
        }
    }

    fn next_line(&mut self) {
        self.line += 1;
        self.next = 0;
        self.load();
    }

    fn rest(&self) -> &[char] {
        &self.characters[self.next.min(self.characters.len())..]
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: self.next + 1 }
    }
}
