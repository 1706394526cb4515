//! JSON objects into columns, without a tree in between.

use super::columns::{ColumnBuilder, Number};
use super::{BadRecord, Decoder, UnsupportedColumn};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;

/// How deep objects and arrays may be nested in a value.
const MAX_DEPTH: usize = 128;

pub(super) struct JsonDecoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    by_name: HashMap<Vec<u8>, usize>,
    /// The keys of the last record in their order, in quotes: the next record mostly has the same.
    expected: Vec<Expected>,
    rows: usize,
    scratch: Vec<u8>,
}

struct Expected {
    quoted_key: Vec<u8>,
    column: Option<usize>,
}

impl JsonDecoder {
    pub fn new(schema: &SchemaRef) -> Result<Self, UnsupportedColumn> {
        let columns = schema.fields().iter().map(|field| ColumnBuilder::new(field)).collect::<Result<_, _>>()?;
        let names = schema.fields().iter().enumerate();
        Ok(JsonDecoder {
            schema: schema.clone(),
            columns,
            by_name: names.map(|(column, field)| (field.name().as_bytes().to_vec(), column)).collect(),
            expected: Vec::new(),
            rows: 0,
            scratch: Vec::new(),
        })
    }

    /// Takes the row of one object, or leaves everything as it was.
    pub(super) fn row(&mut self, record: &str) -> Result<(), BadRecord> {
        match self.object(record) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(bad) => {
                self.truncate(self.rows);
                Err(bad)
            }
        }
    }

    /// Takes the last rows back.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.rows = rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    fn object(&mut self, record: &str) -> Result<(), BadRecord> {
        let mut place = 0;
        Cursor { text: record, position: 0 }.object(|cursor| {
            let column = self.key(cursor, place)?;
            cursor.colon()?;
            match column {
                Some(column) => self.value(cursor, column)?,
                None => cursor.skip_value(0)?,
            }
            place += 1;
            Ok(())
        })?;
        let rows = self.rows;
        self.columns.iter_mut().filter(|column| column.rows() == rows).try_for_each(ColumnBuilder::push_null)
    }

    /// Reads a key; the column it names, if any.
    #[inline]
    fn key(&mut self, cursor: &mut Cursor<'_>, place: usize) -> Result<Option<usize>, BadRecord> {
        if let Some(expected) = self.expected.get(place)
            && cursor.rest().starts_with(&expected.quoted_key)
        {
            cursor.position += expected.quoted_key.len();
            return Ok(expected.column);
        }
        let start = cursor.position;
        if cursor.peek() != Some(b'"') {
            return Err(cursor.error("expected a key in double quotes"));
        }
        let key = cursor.string(&mut self.scratch)?;
        let column = self.by_name.get(key.as_bytes()).copied();
        let quoted_key = cursor.text.as_bytes()[start..cursor.position].to_vec();
        let expected = Expected { quoted_key, column };
        match self.expected.get_mut(place) {
            Some(old) => *old = expected,
            // Records without end of new keys must not make this list grow with them.
            None if place < 4 * self.columns.len() + 64 => self.expected.push(expected),
            None => {}
        }
        Ok(column)
    }

    #[inline]
    fn value(&mut self, cursor: &mut Cursor<'_>, column: usize) -> Result<(), BadRecord> {
        let column = &mut self.columns[column];
        if column.rows() != self.rows {
            return Err(BadRecord::in_column(column.name(), "the key stands twice in the object"));
        }
        match cursor.peek() {
            Some(b'"') => {
                let text = cursor.string(&mut self.scratch)?;
                column.push_text(text)
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                column.push_number(number)
            }
            Some(b'n') if cursor.take_word("null") => column.push_null(),
            Some(b't') if cursor.take_word("true") => column.push_boolean(true),
            Some(b'f') if cursor.take_word("false") => column.push_boolean(false),
            Some(first @ (b'{' | b'[')) => {
                let start = cursor.position;
                cursor.skip_value(0)?;
                if column.is_text() {
                    column.push_text(&cursor.text[start..cursor.position])
                } else {
                    Err(column.mismatch(if first == b'{' { "an object" } else { "an array" }))
                }
            }
            _ => {
                let mut error = cursor.error("expected a value");
                error.column = Some(column.name().into());
                Err(error)
            }
        }
    }
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let text = std::str::from_utf8(record)
            .map_err(|error| BadRecord::new(format!("not UTF-8 at byte {} of the record", error.valid_up_to())))?;
        self.row(text)
    }

    fn is_blank(&self, record: &[u8]) -> bool {
        record.iter().all(u8::is_ascii_whitespace)
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        super::columns::into_batch(&self.schema, &mut self.columns)
    }
}

/// A place in one record's text. Positions are always on character boundaries, since only ASCII is looked for.
pub(super) struct Cursor<'a> {
    pub(super) text: &'a str,
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.position..]
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.position += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word.as_bytes());
        self.position += if found { word.len() } else { 0 };
        found
    }

    #[inline]
    pub(super) fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    pub(super) fn error(&self, reason: &str) -> BadRecord {
        let found = match self.text[self.position..].chars().next() {
            Some(found) => format!("found `{found}`"),
            None => "found the end of the record".into(),
        };
        BadRecord::new(format!("not JSON: {reason}, {found} at byte {} of the record", self.position))
    }

    /// The string that begins here, without quotes and escapes.
    #[inline]
    pub(super) fn string<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<&'s str, BadRecord>
    where
        'a: 's,
    {
        let bytes = self.text.as_bytes();
        let start = self.position + 1;
        match memchr::memchr2(b'"', b'\\', &bytes[start..]) {
            Some(length) if bytes[start + length] == b'"' => {
                self.position = start + length + 1;
                Ok(&self.text[start..start + length])
            }
            Some(length) => {
                scratch.clear();
                scratch.extend_from_slice(&bytes[start..start + length]);
                self.position = start + length;
                self.escaped_string(scratch)?;
                // Whole pieces of a `str` and whole characters were put together.
                std::str::from_utf8(scratch).map_err(|_| self.error("a string that isn't UTF-8"))
            }
            None => Err(self.unclosed_string()),
        }
    }

    fn unclosed_string(&mut self) -> BadRecord {
        let start = self.position;
        self.position = self.text.len();
        self.error(&format!("the string that begins at byte {start} has no closing quote"))
    }

    /// Goes on at a backslash, up to the closing quote.
    fn escaped_string(&mut self, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    let character = self.escape()?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(_) => {
                    let rest = self.rest();
                    let length = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    out.extend_from_slice(&rest[..length]);
                    self.position += length;
                }
                None => return Err(self.unclosed_string()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, BadRecord> {
        let character = match self.rest().get(1) {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(*plain),
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("an unknown escape in a string")),
        };
        self.position += 2;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, BadRecord> {
        fn unit(escape: &[u8]) -> Option<u32> {
            let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
            digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
        }
        let rest = self.rest();
        let found = match unit(rest) {
            Some(high @ 0xD800..=0xDBFF) => match rest.get(6..).and_then(unit) {
                Some(low @ 0xDC00..=0xDFFF) => {
                    char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00)).map(|pair| (pair, 12))
                }
                _ => None,
            },
            Some(unit) => char::from_u32(unit).map(|character| (character, 6)),
            None => None,
        };
        let (character, length) = found.ok_or_else(|| self.error("an invalid \\u escape in a string"))?;
        self.position += length;
        Ok(character)
    }

    #[inline]
    fn number(&mut self) -> Result<Number<'a>, BadRecord> {
        let start = self.position;
        self.take(b'-');
        let whole = self.digits();
        // A leading zero stands alone.
        if whole == 0 || (whole > 1 && self.text.as_bytes()[self.position - whole] == b'0') {
            return Err(self.error("not a number"));
        }
        let mut is_integer = true;
        if self.take(b'.') {
            is_integer = false;
            if self.digits() == 0 {
                return Err(self.error("a number without digits after the point"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            is_integer = false;
            self.position += 1;
            let _ = self.take(b'-') || self.take(b'+');
            if self.digits() == 0 {
                return Err(self.error("a number without digits in its exponent"));
            }
        }
        Ok(Number { text: &self.text[start..self.position], is_integer })
    }

    #[inline]
    fn digits(&mut self) -> usize {
        let start = self.position;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
        }
        self.position - start
    }

    /// Passes over a value, checking it.
    pub(super) fn skip_value(&mut self, depth: usize) -> Result<(), BadRecord> {
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b'n') if self.take_word("null") => Ok(()),
            Some(b't') if self.take_word("true") => Ok(()),
            Some(b'f') if self.take_word("false") => Ok(()),
            Some(b'{' | b'[') if depth == MAX_DEPTH => {
                Err(self.error(&format!("objects and arrays nested deeper than {MAX_DEPTH}")))
            }
            Some(b'[') => self.skip_members(b']', |cursor| cursor.skip_value(depth + 1)),
            Some(b'{') => self.skip_members(b'}', |cursor| {
                if cursor.peek() != Some(b'"') {
                    return Err(cursor.error("expected a key in double quotes"));
                }
                cursor.skip_string()?;
                cursor.skip_blanks();
                if !cursor.take(b':') {
                    return Err(cursor.error("expected `:` after a key"));
                }
                cursor.skip_blanks();
                cursor.skip_value(depth + 1)
            }),
            _ => Err(self.error("expected a value")),
        }
    }

    /// Reads a record that is one object; `member` reads a key, a colon and a value.
    #[inline]
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self) -> Result<(), BadRecord>,
    ) -> Result<(), BadRecord> {
        self.skip_blanks();
        if !self.take(b'{') {
            return Err(self.error("expected a JSON object"));
        }
        self.skip_blanks();
        if !self.take(b'}') {
            loop {
                member(self)?;
                self.skip_blanks();
                if self.take(b',') {
                    self.skip_blanks();
                } else if self.take(b'}') {
                    break;
                } else {
                    return Err(self.error("expected `,` or `}` after a value"));
                }
            }
        }
        self.skip_blanks();
        if self.position != self.text.len() {
            return Err(self.error("expected the end of the record after the object (one object a line)"));
        }
        Ok(())
    }

    /// What stands between a key and its value.
    #[inline]
    pub(super) fn colon(&mut self) -> Result<(), BadRecord> {
        self.skip_blanks();
        if !self.take(b':') {
            return Err(self.error("expected `:` after a key"));
        }
        self.skip_blanks();
        Ok(())
    }

    fn skip_members(
        &mut self,
        close: u8,
        mut member: impl FnMut(&mut Self) -> Result<(), BadRecord>,
    ) -> Result<(), BadRecord> {
        self.position += 1;
        self.skip_blanks();
        if self.take(close) {
            return Ok(());
        }
        loop {
            member(self)?;
            self.skip_blanks();
            if self.take(close) {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(self.error(&format!("expected `,` or `{}`", char::from(close))));
            }
            self.skip_blanks();
        }
    }

    fn skip_string(&mut self) -> Result<(), BadRecord> {
        self.position += 1;
        loop {
            let rest = self.rest();
            match memchr::memchr2(b'"', b'\\', rest) {
                Some(length) if rest[length] == b'"' => {
                    self.position += length + 1;
                    return Ok(());
                }
                Some(length) => {
                    self.position += length;
                    self.escape()?;
                }
                None => return Err(self.unclosed_string()),
            }
        }
    }
}
