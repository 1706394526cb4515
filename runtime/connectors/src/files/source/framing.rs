//! Where one record of a text file ends and the next begins.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Every line end ends a record.
    Lines,
    /// A line end in a quoted field is part of the record.
    Csv { delimiter: u8, quote: u8 },
}

impl Framing {
    /// The position of the line end that ends the record at the start of `bytes`; `None` if it isn't there yet.
    #[inline]
    pub fn record_end(self, bytes: &[u8]) -> Option<usize> {
        let line_end = memchr::memchr(b'\n', bytes)?;
        match self {
            Framing::Csv { delimiter, quote } if memchr::memchr(quote, &bytes[..line_end]).is_some() => {
                quoted_record_end(bytes, delimiter, quote)
            }
            _ => Some(line_end),
        }
    }
}

/// Only a quote at the start of a field opens one, as in the decoder.
fn quoted_record_end(bytes: &[u8], delimiter: u8, quote: u8) -> Option<usize> {
    let (mut quoted, mut field_start) = (false, true);
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        if quoted {
            if byte == quote && bytes.get(position + 1) == Some(&quote) {
                position += 1;
            } else if byte == quote {
                quoted = false;
            }
        } else if byte == b'\n' {
            return Some(position);
        } else {
            quoted = field_start && byte == quote;
            field_start = byte == delimiter;
        }
        position += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let csv = Framing::Csv { delimiter: b',', quote: b'"' };
        for (bytes, expected) in [
            ("a,b\nc", Some(3)),
            ("a,b", None),
            ("\"a\nb\",c\nd", Some(7)),
            ("\"a\n\"\"b\",c\nd", Some(9)),
            ("5\" pipe\nx", Some(7)),
            ("a,\"b\nc", None),
            ("a,\"\"\nc", Some(4)),
            ("\"a\"\n", Some(3)),
        ] {
            assert_eq!(csv.record_end(bytes.as_bytes()), expected, "{bytes}");
        }
        assert_eq!(Framing::Lines.record_end(b"\"a\nb\"\n"), Some(2));
    }
}
