//! JSON paths (`$.a.b[0]['c d']`), and finding what stands at one without building the whole document.

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    /// From 0; negative: from the end.
    Index(i64),
}

/// The modes `lax` and `strict` may stand before the path, and mean the same here.
pub(super) fn parse_path(path: &str) -> Result<Vec<Step>, String> {
    let path = path.trim();
    let path = path.strip_prefix("lax ").or_else(|| path.strip_prefix("strict ")).unwrap_or(path).trim();
    let Some(mut rest) = path.strip_prefix('$') else { return Err("a path begins with $".to_owned()) };
    let mut steps = vec![];
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let (key, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').ok_or("a quote is not closed")?,
                None => after.split_at(after.find(['.', '[']).unwrap_or(after.len())),
            };
            if key.is_empty() || key == "*" {
                return Err("a key is missing after the dot (and * is not supported)".to_owned());
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
            let (step, after) = match quote {
                Some(quote) => {
                    let (key, after) = after[1..].split_once(quote).ok_or("a quote is not closed")?;
                    (Step::Key(key.to_owned()), after.strip_prefix(']').ok_or("] is missing")?)
                }
                None => {
                    let (index, after) = after.split_once(']').ok_or("] is missing")?;
                    (Step::Index(index.trim().parse().map_err(|_| format!("[{index}] is not an index"))?), after)
                }
            };
            steps.push(step);
            rest = after;
        } else {
            return Err(format!("`.` or `[` is missing before `{rest}`"));
        }
    }
    Ok(steps)
}

/// What stands at the path; None if nothing does or the text is not JSON.
pub(super) fn find(json: &str, steps: &[Step]) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = Finder { steps }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    found
}

/// Reads one value and keeps only what stands at `steps` below it.
struct Finder<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.steps.is_empty() {
            return Value::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((Step::Key(wanted), below)) = self.steps.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        let mut found = None;
        while let Some(matches) = map.next_key_seed(IsKey(wanted))? {
            if matches {
                // Of a key that stands twice the last one counts, as most parsers have it.
                found = map.next_value_seed(Finder { steps: below })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((Step::Index(wanted), below)) = self.steps.split_first() else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        if *wanted < 0 {
            let mut elements = vec![];
            while let Some(element) = seq.next_element::<Value>()? {
                elements.push(element);
            }
            let index = elements.len().checked_sub(wanted.unsigned_abs() as usize);
            return Ok(index.and_then(|index| descend(elements.swap_remove(index), below)));
        }
        let mut found = None;
        for index in 0.. {
            let present = if index == *wanted {
                seq.next_element_seed(Finder { steps: below })?.map(|value| found = value)
            } else {
                seq.next_element::<IgnoredAny>()?.map(|_| ())
            };
            if present.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

fn descend(mut value: Value, steps: &[Step]) -> Option<Value> {
    for step in steps {
        value = match (step, value) {
            (Step::Key(key), Value::Object(mut object)) => object.swap_remove(key)?,
            (Step::Index(index), Value::Array(mut array)) => {
                let index = match usize::try_from(*index) {
                    Ok(index) => index,
                    Err(_) => array.len().checked_sub(index.unsigned_abs() as usize)?,
                };
                if index >= array.len() {
                    return None;
                }
                array.swap_remove(index)
            }
            _ => return None,
        };
    }
    Some(value)
}

/// Compares a key without making a string of it.
struct IsKey<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_what_stands_there() {
        let json = r#"{"a": {"b": [10, {"c d": "x"}, null]}, "n": 1.5, "a2": true}"#;
        for (path, expected) in [
            ("$.n", Some("1.5")),
            ("lax $.a.b[0]", Some("10")),
            ("$.a.b[1]['c d']", Some("\"x\"")),
            ("$.a.b[-2].\"c d\"", Some("\"x\"")),
            ("$.a.b[2]", Some("null")),
            ("$.a.b[3]", None),
            ("$.a[0]", None),
            ("$.n.x", None),
            ("$.a2", Some("true")),
        ] {
            let found = find(json, &parse_path(path).unwrap()).map(|value| value.to_string());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        assert_eq!(find("{\"a\": 1", &parse_path("$.a").unwrap()), None, "broken after the match");
        assert_eq!(find("{\"a\": 1} x", &parse_path("$.a").unwrap()), None, "text behind the document");
        for wrong in ["a", "$a", "$.", "$[x]", "$['a", "$.*"] {
            assert!(parse_path(wrong).is_err(), "{wrong}");
        }
    }
}
