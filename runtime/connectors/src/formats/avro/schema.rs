//! The schema that records were written by, as far as their bytes can be walked through by it.

use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// No schema of people's has as many types; one that does is refused before it fills the memory.
const MAX_TYPES: usize = 10_000;

pub(super) type TypeId = usize;

#[derive(Debug, PartialEq)]
pub(super) struct AvroSchema {
    types: Vec<Type>,
    root: TypeId,
}

/// A type, with the meaning that a logical type gives it. Types inside it by their number: they may be inside themselves.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    /// An unscaled number, big-endian, in bytes or, with a size, fixed.
    Decimal {
        size: Option<usize>,
        scale: i8,
    },
    Fixed(usize),
    Enum(Vec<String>),
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Record(Vec<(String, TypeId)>),
}

impl AvroSchema {
    /// # Errors
    /// What is wrong with the text, and where in the schema.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| format!("the Avro schema is not JSON: {error}"))?;
        let mut parser = Parser { types: vec![], named: HashMap::new() };
        let root = parser.of_value(&json, "")?;
        Ok(AvroSchema { types: parser.types, root })
    }

    /// The fields of a record at the top.
    pub(super) fn fields(&self) -> Result<&[(String, TypeId)], String> {
        match self.of(self.root) {
            Type::Record(fields) => Ok(fields),
            other => Err(format!("the Avro schema is of {}, and rows need a record", other.name())),
        }
    }

    pub(super) fn of(&self, id: TypeId) -> &Type {
        &self.types[id]
    }
}

impl Type {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Boolean => "boolean",
            Type::Int => "int",
            Type::Long => "long",
            Type::Float => "float",
            Type::Double => "double",
            Type::Bytes => "bytes",
            Type::Text => "string",
            Type::Date => "date",
            Type::TimeMillis => "time-millis",
            Type::TimeMicros => "time-micros",
            Type::TimestampMillis => "timestamp-millis",
            Type::TimestampMicros => "timestamp-micros",
            Type::TimestampNanos => "timestamp-nanos",
            Type::Decimal { .. } => "decimal",
            Type::Fixed(_) => "fixed",
            Type::Enum(_) => "enum",
            Type::Array(_) => "array",
            Type::Map(_) => "map",
            Type::Union(_) => "union",
            Type::Record(_) => "record",
        }
    }
}

struct Parser {
    types: Vec<Type>,
    /// By full name.
    named: HashMap<String, TypeId>,
}

impl Parser {
    fn of_value(&mut self, value: &Value, namespace: &str) -> Result<TypeId, String> {
        match value {
            Value::String(name) => self.of_name(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.of_value(branch, namespace));
                let branches = branches.collect::<Result<_, _>>()?;
                self.add(Type::Union(branches))
            }
            Value::Object(object) => self.of_object(object, namespace),
            other => Err(format!("`{other}` in the Avro schema is no type")),
        }
    }

    fn of_name(&mut self, name: &str, namespace: &str) -> Result<TypeId, String> {
        let plain = match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int,
            "long" => Type::Long,
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "string" => Type::Text,
            _ => {
                let within = self.named.get(&full_name(name, namespace)).or_else(|| self.named.get(name));
                return within.copied().ok_or_else(|| format!("the Avro schema uses the type `{name}` and has none"));
            }
        };
        self.add(plain)
    }

    fn of_object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<TypeId, String> {
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(nested) => return self.of_value(nested, namespace),
            None => return Err(format!("a type of the Avro schema has no `type`: {}", Value::Object(object.clone()))),
        };
        let missing = |what: &str| format!("the Avro schema has a {kind} without `{what}`");
        let logical = text("logicalType").unwrap_or_default();
        let scale = || object.get("scale").map_or(Some(0), Value::as_i64).and_then(|scale| i8::try_from(scale).ok());
        let size = || object.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
        let namespace = text("namespace").unwrap_or(namespace);
        let inside =
            |name: &str| name.rsplit_once('.').map_or_else(|| namespace.to_owned(), |(space, _)| space.to_owned());
        match kind {
            "record" | "error" | "enum" | "fixed" => {
                let name = text("name").ok_or_else(|| missing("name"))?;
                // Before what is in it: that may name it.
                let id = self.add(Type::Null)?;
                self.named.insert(full_name(name, namespace), id);
                self.types[id] = match kind {
                    "enum" => {
                        let symbols =
                            object.get("symbols").and_then(Value::as_array).ok_or_else(|| missing("symbols"))?;
                        Type::Enum(symbols.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                    }
                    "fixed" => {
                        let size = size().ok_or_else(|| missing("size"))?;
                        match (logical, scale()) {
                            ("decimal", Some(scale)) => Type::Decimal { size: Some(size), scale },
                            _ => Type::Fixed(size),
                        }
                    }
                    _ => {
                        let fields = object.get("fields").and_then(Value::as_array).ok_or_else(|| missing("fields"))?;
                        let namespace = inside(name);
                        let fields = fields.iter().map(|field| {
                            let name =
                                field.get("name").and_then(Value::as_str).ok_or_else(|| missing("fields[].name"))?;
                            let of = field.get("type").ok_or_else(|| missing("fields[].type"))?;
                            Ok((name.to_owned(), self.of_value(of, &namespace)?))
                        });
                        let fields: Vec<(String, TypeId)> = fields.collect::<Result<_, String>>()?;
                        let mut names = HashSet::new();
                        if let Some((twice, _)) = fields.iter().find(|(name, _)| !names.insert(name)) {
                            return Err(format!("the Avro schema has a record `{name}` with two fields `{twice}`"));
                        }
                        Type::Record(fields)
                    }
                };
                Ok(id)
            }
            "array" => {
                let items = object.get("items").ok_or_else(|| missing("items"))?;
                let items = self.of_value(items, namespace)?;
                self.add(Type::Array(items))
            }
            "map" => {
                let values = object.get("values").ok_or_else(|| missing("values"))?;
                let values = self.of_value(values, namespace)?;
                self.add(Type::Map(values))
            }
            plain => match (plain, logical) {
                ("int", "date") => self.add(Type::Date),
                ("int", "time-millis") => self.add(Type::TimeMillis),
                ("long", "time-micros") => self.add(Type::TimeMicros),
                ("long", "timestamp-millis" | "local-timestamp-millis") => self.add(Type::TimestampMillis),
                ("long", "timestamp-micros" | "local-timestamp-micros") => self.add(Type::TimestampMicros),
                ("long", "timestamp-nanos" | "local-timestamp-nanos") => self.add(Type::TimestampNanos),
                ("bytes", "decimal") => match scale() {
                    Some(scale) => self.add(Type::Decimal { size: None, scale }),
                    None => Err("the Avro schema has a decimal with a scale that is none".into()),
                },
                // As the standard says: a logical type that isn't known, or not of this type, is passed over.
                _ => self.of_name(plain, namespace),
            },
        }
    }

    fn add(&mut self, new: Type) -> Result<TypeId, String> {
        if self.types.len() >= MAX_TYPES {
            return Err(format!("the Avro schema has more than {MAX_TYPES} types"));
        }
        self.types.push(new);
        Ok(self.types.len() - 1)
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}
