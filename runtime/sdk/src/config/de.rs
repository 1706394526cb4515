//! A deserializer over JSON that knows where it is, and notes what nobody asked for.

use super::{Found, Unknown};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected};
use serde::de::{VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;

type Result<T> = std::result::Result<T, serde_json::Error>;

/// One value of the config.
#[derive(Clone, Copy)]
pub(super) struct Tracked<'a> {
    pub(super) value: &'a Value,
    pub(super) place: Place<'a>,
    pub(super) found: &'a RefCell<Found>,
}

#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Field { of: &'a Place<'a>, name: &'a str, known: &'static [&'static str] },
    Element { of: &'a Place<'a>, index: usize },
}

/// As in `levels[1].name`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field { of: Place::Root, name, .. } => f.write_str(name),
            Place::Field { of, name, .. } => write!(f, "{of}.{name}"),
            Place::Element { of, index } => write!(f, "{of}[{index}]"),
        }
    }
}

impl<'a> Tracked<'a> {
    /// Deserializes the value, and notes its place if that fails and nothing inside it did.
    fn seeded<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        let result = seed.deserialize(self);
        if result.is_err() {
            self.found.borrow_mut().failed_at.get_or_insert_with(|| self.place.to_string());
        }
        result
    }

    fn object<'de, V: Visitor<'de>>(self, known: &'static [&'static str], visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Object(object) => visitor.visit_map(Fields { of: self, known, fields: object.iter(), next: None }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn unexpected(&self) -> Unexpected<'a> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(_) => Unexpected::Other("number"),
            Value::String(value) => Unexpected::Str(value),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for Tracked<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::custom(format!("the number {number} is out of range"))),
            },
            Value::String(value) => visitor.visit_str(value),
            Value::Array(elements) => visitor.visit_seq(Elements { of: self, elements: elements.iter(), next: 0 }),
            Value::Object(_) => self.object(&[], visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A step without `config` has an empty one.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let Value::Object(fields) = self.value else { return self.deserialize_any(visitor) };
        for name in fields.keys() {
            let field = Place::Field { of: &self.place, name, known: &[] }.to_string();
            self.found.borrow_mut().unknown.push(Unknown { field, known: &[] });
        }
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.object(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.value {
            Value::String(name) => visitor.visit_enum(Variant { of: self, name, content: None }),
            Value::Object(object) if object.len() == 1 => {
                let (name, content) = object.iter().next().expect("there is one");
                visitor.visit_enum(Variant { of: self, name, content: Some(content) })
            }
            _ => Err(de::Error::invalid_type(self.unexpected(), &"the name of a variant, or a map with one alone")),
        }
    }

    /// Only for what nobody asks for.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Place::Field { known, .. } = self.place {
            self.found.borrow_mut().unknown.push(Unknown { field: self.place.to_string(), known });
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        seq tuple tuple_struct map identifier
    }
}

struct Fields<'a> {
    of: Tracked<'a>,
    known: &'static [&'static str],
    fields: serde_json::map::Iter<'a>,
    next: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.next = Some((name, value));
        let name: StrDeserializer<'_, serde_json::Error> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let (name, value) = self.next.take().expect("a key comes before its value");
        let place = Place::Field { of: &self.of.place, name, known: self.known };
        Tracked { value, place, found: self.of.found }.seeded(seed)
    }
}

struct Elements<'a> {
    of: Tracked<'a>,
    elements: std::slice::Iter<'a, Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = serde_json::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(value) = self.elements.next() else { return Ok(None) };
        let place = Place::Element { of: &self.of.place, index: self.next };
        self.next += 1;
        Tracked { value, place, found: self.of.found }.seeded(seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

/// A variant of an enum: its name alone, or a map of its name to what it holds.
struct Variant<'a> {
    of: Tracked<'a>,
    name: &'a str,
    content: Option<&'a Value>,
}

impl<'a> Variant<'a> {
    fn with_content<T>(self, read: impl FnOnce(Tracked<'_>) -> Result<T>) -> Result<T> {
        let Some(value) = self.content else {
            return Err(de::Error::invalid_type(Unexpected::UnitVariant, &"a variant that holds something"));
        };
        let place = Place::Field { of: &self.of.place, name: self.name, known: &[] };
        let result = read(Tracked { value, place, found: self.of.found });
        if result.is_err() {
            self.of.found.borrow_mut().failed_at.get_or_insert_with(|| place.to_string());
        }
        result
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = serde_json::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let name: StrDeserializer<'_, serde_json::Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<()> {
        match self.content {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(de::Error::invalid_type(Unexpected::NewtypeVariant, &"a variant that holds nothing")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        self.with_content(|content| content.seeded(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value> {
        self.with_content(|content| content.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.with_content(|content| content.object(fields, visitor))
    }
}
