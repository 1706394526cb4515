//! Amounts as Kubernetes writes them: `1Gi`, `512Mi`, `100m`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written as a Kubernetes quantity: `1Gi`, `64Mi`, `1500k`, `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// What the API server lets through for a quantity of bytes.
pub const BYTE_SIZE_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$";

/// Suffixes with their factor, in the order in which one is chosen for writing.
const SUFFIXES: [(&str, u64); 12] = [
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("E", 1_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    #[error("`{0}` is not a size: write a number of bytes with a Kubernetes suffix, such as 512Mi or 1Gi")]
    Malformed(String),
    #[error("`{text}` has the unknown suffix `{suffix}`: did you mean {suggestion}?")]
    UnknownSuffix { text: String, suffix: String, suggestion: String },
    #[error("`{0}` is more bytes than can be counted")]
    TooLarge(String),
}

impl ByteSize {
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn from_gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size as a person reads it, rounded: `1.2 MiB`. For display only.
    pub fn approximate(self) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { format!("{} B", self.0) } else { format!("{value:.1} {}", units[unit]) }
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let malformed = || ByteSizeError::Malformed(text.to_owned());
        let number_len = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_len);
        if number.is_empty() {
            return Err(malformed());
        }
        let factor = match suffix {
            "" => 1,
            _ => SUFFIXES.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor).ok_or_else(|| {
                match suggested_suffix(suffix) {
                    Some(better) => ByteSizeError::UnknownSuffix {
                        text: text.to_owned(),
                        suffix: suffix.to_owned(),
                        suggestion: format!("{number}{better}"),
                    },
                    None => malformed(),
                }
            })?,
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Err(malformed()),
            Some(parts) => parts,
            None => (number, ""),
        };
        if whole.is_empty() || !fraction.chars().all(|c| c.is_ascii_digit()) {
            return Err(malformed());
        }
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let mut bytes = u128::from(whole) * u128::from(factor);
        // Kubernetes rounds a quantity of bytes up to a whole byte; beyond eighteen digits nothing is left to add.
        let digits: String = fraction.chars().take(18).collect();
        if !digits.is_empty() {
            let numerator: u128 = digits.parse().map_err(|_| malformed())?;
            bytes += (numerator * u128::from(factor)).div_ceil(10u128.pow(digits.len() as u32));
        }
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

/// What somebody who wrote `MB`, `mb`, `GiB` or `g` meant.
fn suggested_suffix(suffix: &str) -> Option<&'static str> {
    match suffix.trim().to_ascii_lowercase().as_str() {
        "b" | "bytes" => Some(""),
        "k" | "kb" | "kib" | "ki" => Some("Ki"),
        "m" | "mb" | "mib" | "mi" => Some("Mi"),
        "g" | "gb" | "gib" | "gi" => Some("Gi"),
        "t" | "tb" | "tib" | "ti" => Some("Ti"),
        _ => None,
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 != 0
            && let Some((suffix, factor)) = SUFFIXES.iter().find(|(_, factor)| self.0.is_multiple_of(*factor))
        {
            return write!(f, "{}{suffix}", self.0 / factor);
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": BYTE_SIZE_PATTERN,
            "maxLength": 32,
            "x-weir-type": "byteSize",
        })
    }
}

/// The text of a Kubernetes quantity of any resource: `100m` CPU, `4Gi` memory. Handed to Kubernetes as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceQuantity(pub String);

/// What Kubernetes takes for a quantity.
pub const QUANTITY_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE][0-9]+)?$";

impl Serialize for ResourceQuantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceQuantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => Self(number.to_string()),
            NumberOrText::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for ResourceQuantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
        })
    }
}

/// YAML reads `1024` as a number and `1Gi` as a string; a quantity may be either.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kubernetes_quantities() {
        let table = [
            ("0", 0),
            ("1024", 1024),
            ("1Gi", 1 << 30),
            ("1G", 1_000_000_000),
            ("1.5Ki", 1536),
            ("0.5Mi", 512 << 10),
            ("64k", 64_000),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads_back() {
        for text in ["1Gi", "512Mi", "1G", "1500", "1500k", "0"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        assert_eq!(serde_json::from_str::<ByteSize>("1048576").unwrap().to_string(), "1Mi");
    }

    #[test]
    fn refuses_with_a_remedy() {
        let table = [
            ("1GB", "`1GB` has the unknown suffix `GB`: did you mean 1Gi?"),
            ("64mb", "`64mb` has the unknown suffix `mb`: did you mean 64Mi?"),
            ("lots", "`lots` is not a size: write a number of bytes with a Kubernetes suffix, such as 512Mi or 1Gi"),
            (
                "1..5Gi",
                "`1..5Gi` is not a size: write a number of bytes with a Kubernetes suffix, such as 512Mi or 1Gi",
            ),
            ("99999Ei", "`99999Ei` is more bytes than can be counted"),
        ];
        for (text, message) in table {
            assert_eq!(text.parse::<ByteSize>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn approximates_for_people() {
        assert_eq!(ByteSize::from_bytes(1_258_291).approximate(), "1.2 MiB");
        assert_eq!(ByteSize::from_bytes(12).approximate(), "12 B");
    }
}
