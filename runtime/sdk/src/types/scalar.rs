use super::{Date, Kind, Time, Timestamp, Value};
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What can be written into a column.
pub trait ToValue {
    /// Calls `use_value` with the value, once.
    fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R;
}

/// A Rust type that stands for a column: of rows read and emitted, and of state.
///
/// `bool`, `i8` to `i64`, `f32`, `f64`, `i128` (decimals, unscaled), `String`, `Vec<u8>`, [`Timestamp`], [`Date`],
/// [`Time`], `Option` of each (a column that may be null), and [`Json`] for everything that serde knows.
pub trait ColumnType: ToValue + Sized + Send + 'static {
    const KIND: Kind;
    const NULLABLE: bool;
    /// How state of this type came to be, compared on restore: JSON text isn't read as a plain string.
    const SEMANTICS: &'static str = "value";
    /// What reading gives: `&str` for a `String`, so that nothing is allocated.
    type Ref<'a>;

    /// Takes values of its own kind, and of those that fit it without loss (an INT is read as an `i64`).
    ///
    /// # Errors
    /// A value of another kind; a null, unless it's an `Option`.
    fn borrow(value: Value<'_>) -> Result<Self::Ref<'_>>;

    fn own(value: Self::Ref<'_>) -> Self;

    /// Whether columns of this kind can be read as this type.
    fn accepts(kind: Kind) -> bool {
        Self::borrow(kind.sample()).is_ok()
    }
}

#[cold]
fn mismatch(value: Value<'_>, kind: Kind) -> Error {
    Error::new(match value {
        Value::Null => "it is null; read it as an Option".to_owned(),
        value => format!("it is a {}, not a {}", value.type_name(), kind.sql_name()),
    })
}

/// `$type` stands for `$kind` and also takes the listed smaller kinds.
macro_rules! copied {
    ($type:ty, $kind:ident $(, $smaller:ident)*) => {
        impl ToValue for $type {
            #[inline]
            fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
                use_value(Value::$kind(*self))
            }
        }

        impl ColumnType for $type {
            const KIND: Kind = Kind::$kind;
            const NULLABLE: bool = false;
            type Ref<'a> = $type;

            #[inline]
            fn borrow(value: Value<'_>) -> Result<Self> {
                match value {
                    Value::$kind(value) => Ok(value),
                    $(Value::$smaller(value) => Ok(value.into()),)*
                    other => Err(mismatch(other, Kind::$kind)),
                }
            }

            #[inline]
            fn own(value: Self) -> Self {
                value
            }
        }
    };
}
copied!(bool, Boolean);
copied!(i8, TinyInt);
copied!(i16, SmallInt, TinyInt);
copied!(i32, Int, SmallInt, TinyInt);
copied!(i64, BigInt, Int, SmallInt, TinyInt);
copied!(f32, Float, SmallInt, TinyInt);
copied!(f64, Double, Float, Int, SmallInt, TinyInt);
copied!(i128, Decimal);

/// `$type` is a struct around the number that `$kind` carries.
macro_rules! wrapped {
    ($type:ty, $kind:ident, $value:ident => $make:expr, $self_:ident => $number:expr) => {
        impl ToValue for $type {
            #[inline]
            fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
                let $self_ = self;
                use_value(Value::$kind($number))
            }
        }

        impl ColumnType for $type {
            const KIND: Kind = Kind::$kind;
            const NULLABLE: bool = false;
            type Ref<'a> = $type;

            #[inline]
            fn borrow(value: Value<'_>) -> Result<Self> {
                match value {
                    Value::$kind($value) => Ok($make),
                    other => Err(mismatch(other, Kind::$kind)),
                }
            }

            #[inline]
            fn own(value: Self) -> Self {
                value
            }
        }
    };
}
wrapped!(Timestamp, Timestamp, micros => Timestamp::from_micros(micros), time => time.as_micros());
wrapped!(Date, Date, days => Date { days }, date => date.days);
wrapped!(Time, Time, micros => Time { micros }, time => time.micros);

/// `$owned` stands for `$kind`, and `$borrowed` is what reading gives.
macro_rules! borrowed {
    ($owned:ty, $borrowed:ty, $kind:ident) => {
        impl ToValue for $owned {
            #[inline]
            fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
                use_value(Value::$kind(self))
            }
        }

        impl ToValue for &$borrowed {
            #[inline]
            fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
                use_value(Value::$kind(self))
            }
        }

        impl ColumnType for $owned {
            const KIND: Kind = Kind::$kind;
            const NULLABLE: bool = false;
            type Ref<'a> = &'a $borrowed;

            #[inline]
            fn borrow(value: Value<'_>) -> Result<&$borrowed> {
                match value {
                    Value::$kind(value) => Ok(value),
                    other => Err(mismatch(other, Kind::$kind)),
                }
            }

            #[inline]
            fn own(value: &$borrowed) -> Self {
                value.to_owned()
            }
        }
    };
}
borrowed!(String, str, Varchar);
borrowed!(Vec<u8>, [u8], Bytes);

impl<T: ToValue> ToValue for Option<T> {
    #[inline]
    fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
        match self {
            Some(value) => value.with_value(use_value),
            None => use_value(Value::Null),
        }
    }
}

impl<T: ColumnType> ColumnType for Option<T> {
    const KIND: Kind = T::KIND;
    const NULLABLE: bool = true;
    const SEMANTICS: &'static str = T::SEMANTICS;
    type Ref<'a> = Option<T::Ref<'a>>;

    #[inline]
    fn borrow(value: Value<'_>) -> Result<Self::Ref<'_>> {
        match value {
            Value::Null => Ok(None),
            value => T::borrow(value).map(Some),
        }
    }

    #[inline]
    fn own(value: Self::Ref<'_>) -> Self {
        value.map(T::own)
    }

    fn accepts(kind: Kind) -> bool {
        T::accepts(kind)
    }
}

/// A value of any type that serde knows, as JSON text in a VARCHAR column: readable in a savepoint, and able to
/// change as far as serde takes what older versions wrote (`#[serde(default)]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(pub T);

impl<T: Serialize> ToValue for Json<T> {
    /// # Panics
    /// If the type cannot be written as JSON at all (a map whose keys are not strings).
    fn with_value<R>(&self, use_value: impl FnOnce(Value<'_>) -> R) -> R {
        let text = serde_json::to_string(&self.0)
            .unwrap_or_else(|error| panic!("{} has no JSON form: {error}", std::any::type_name::<T>()));
        use_value(Value::Varchar(&text))
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> ColumnType for Json<T> {
    const KIND: Kind = Kind::Varchar;
    const NULLABLE: bool = false;
    const SEMANTICS: &'static str = "json";
    type Ref<'a> = Json<T>;

    fn borrow(value: Value<'_>) -> Result<Self> {
        let text = String::borrow(value)?;
        serde_json::from_str(text)
            .map(Json)
            .map_err(|error| Error::new(format!("not the JSON of {}: {error}", std::any::type_name::<T>())))
    }

    fn own(value: Self) -> Self {
        value
    }

    fn accepts(kind: Kind) -> bool {
        kind == Kind::Varchar
    }
}
