//! A step's `config` as the type that an operator asks for, with every mistake told by its field.

mod de;

use crate::{Error, Result, names};
use de::{Place, Tracked};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::RefCell;

/// Parses JSON text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let value: Value = serde_json::from_str(text).map_err(|error| Error::new(format!("its config: {error}")))?;
    from_value(&value)
}

/// # Errors
/// A field of the wrong type, one that is missing, or one that `T` doesn't have.
pub(crate) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T> {
    let found = RefCell::new(Found::default());
    let result = T::deserialize(Tracked { value, place: Place::Root, found: &found });
    let found = found.into_inner();
    match (result, found.unknown.first()) {
        // A field that is missing under its name is there under another one.
        (Err(error), Some(unknown)) if error.to_string().starts_with("missing field") => Err(unknown.error()),
        (Err(error), _) => Err(Error::new(match found.failed_at.as_deref() {
            None | Some("") => format!("its config: {error}"),
            Some(field) => format!("its config, field `{field}`: {error}"),
        })),
        (Ok(_), Some(unknown)) => Err(unknown.error()),
        (Ok(config), None) => Ok(config),
    }
}

/// What came up on the way.
#[derive(Default)]
struct Found {
    /// The innermost field that failed.
    failed_at: Option<String>,
    /// Fields that nobody asked for.
    unknown: Vec<Unknown>,
}

struct Unknown {
    field: String,
    /// Those there are, where they are known.
    known: &'static [&'static str],
}

impl Unknown {
    fn error(&self) -> Error {
        let name = self.field.rsplit('.').next().unwrap_or(&self.field);
        let hint = match names::nearest(name, self.known) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if self.known.is_empty() => String::new(),
            None => format!("; there are {}", names::listed(name, self.known.iter().copied())),
        };
        Error::new(format!("its config has no field `{}`{hint}", self.field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        threshold: f64,
        #[serde(default)]
        max_windows: Option<u32>,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        levels: Vec<Level>,
    }

    #[derive(Debug, Deserialize, PartialEq, Default)]
    enum Mode {
        #[default]
        Fast,
        Slow {
            factor: i64,
        },
        Other(u8),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Level {
        name: String,
        minutes: (u8, u8),
    }

    fn error(text: &str) -> String {
        parse::<Config>(text).unwrap_err().to_string()
    }

    #[test]
    fn what_serde_takes() {
        let config: Config = parse(
            r#"{"threshold": 30, "maxWindows": 3, "mode": {"Slow": {"factor": -2}},
                "levels": [{"name": "high", "minutes": [1, 2]}]}"#,
        )
        .unwrap();
        let levels = vec![Level { name: "high".into(), minutes: (1, 2) }];
        let expected = Config { threshold: 30.0, max_windows: Some(3), mode: Mode::Slow { factor: -2 }, levels };
        assert_eq!(config, expected);
        let config: Config = parse(r#"{"threshold": 1.5, "maxWindows": null, "mode": {"Other": 7}}"#).unwrap();
        assert_eq!((config.max_windows, config.mode), (None, Mode::Other(7)));
        assert_eq!(parse::<Config>(r#"{"threshold": 1, "mode": "Fast"}"#).unwrap().mode, Mode::Fast);
        parse::<()>("null").unwrap();
        parse::<()>("{}").unwrap();
        assert_eq!(parse::<()>(r#"{"x": 1}"#).unwrap_err().to_string(), "its config has no field `x`");
    }

    #[test]
    fn every_mistake_names_its_field() {
        assert_eq!(error("{}"), "its config: missing field `threshold`");
        let wrong = error(r#"{"threshold": "30"}"#);
        assert_eq!(wrong, r#"its config, field `threshold`: invalid type: string "30", expected f64"#);
        assert_eq!(
            error(r#"{"threshold": 30, "maxWindow": 3}"#),
            "its config has no field `maxWindow`; did you mean `maxWindows`?"
        );
        let wrong = error(r#"{"threshold": 30, "levels": [{"name": "a", "minutes": [1, 2]}, {"name": 7}]}"#);
        assert_eq!(wrong, "its config, field `levels[1].name`: invalid type: integer `7`, expected a string");
        let wrong = error(r#"{"threshold": 30, "levels": [{"name": "a", "minutes": [1, 300]}]}"#);
        assert_eq!(wrong, "its config, field `levels[0].minutes[1]`: invalid value: integer `300`, expected u8");
        let wrong = error(r#"{"threshold": 30, "mode": {"Slow": {"factor": 1.5}}}"#);
        assert_eq!(wrong, "its config, field `mode.Slow.factor`: invalid type: floating point `1.5`, expected i64");
        let wrong = error(r#"{"threshold": 30, "mode": "Medium"}"#);
        let expected = "unknown variant `Medium`, expected one of `Fast`, `Slow`, `Other`";
        assert_eq!(wrong, format!("its config, field `mode`: {expected}"));
        let wrong = error(r#"{"threshold": 30, "levels": [{"name": "a", "minutes": [1, 2], "seconds": 7}]}"#);
        assert_eq!(wrong, "its config has no field `levels[0].seconds`; there are `minutes`, `name`");
        assert_eq!(error(r#"{"treshold": 30}"#), "its config has no field `treshold`; did you mean `threshold`?");
        assert!(error("{").starts_with("its config: EOF"), "{}", error("{"));
    }
}
