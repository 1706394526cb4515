use super::ColumnType;
use crate::Result;
use weir_model::StateField;

/// A Rust type that stands for one column or several: what states hold, and what can be read and emitted as a whole.
///
/// Every [`ColumnType`] is one, and so are tuples of them and structs made with [`record!`](crate::record).
pub trait Record: Sized + Send + 'static {
    /// Its columns in order. Their names are part of a state's schema: a renamed field is another column.
    fn fields() -> Vec<StateField>;

    /// How each column came to be (`ColumnType::SEMANTICS`).
    fn semantics() -> Vec<String>;

    /// Puts each column, in order.
    fn write(&self, out: &mut impl RecordWriter) -> Result<()>;

    /// Takes each column, in order.
    fn read(from: &mut impl RecordReader) -> Result<Self>;
}

/// Takes the columns of a record, in order.
pub trait RecordWriter {
    fn put<T: ColumnType>(&mut self, value: &T) -> Result<()>;
}

/// Gives the columns of a record, in order.
pub trait RecordReader {
    fn take<T: ColumnType>(&mut self) -> Result<T>;
}

/// The name of the column of a record that has just one and no name for it.
const ONLY_COLUMN: &str = "value";

impl<T: ColumnType> Record for T {
    fn fields() -> Vec<StateField> {
        vec![StateField::new(ONLY_COLUMN, T::KIND.data_type(), T::NULLABLE)]
    }

    fn semantics() -> Vec<String> {
        vec![T::SEMANTICS.to_owned()]
    }

    #[inline]
    fn write(&self, out: &mut impl RecordWriter) -> Result<()> {
        out.put(self)
    }

    #[inline]
    fn read(from: &mut impl RecordReader) -> Result<Self> {
        from.take()
    }
}

impl Record for () {
    fn fields() -> Vec<StateField> {
        vec![]
    }

    fn semantics() -> Vec<String> {
        vec![]
    }

    fn write(&self, _out: &mut impl RecordWriter) -> Result<()> {
        Ok(())
    }

    fn read(_from: &mut impl RecordReader) -> Result<Self> {
        Ok(())
    }
}

macro_rules! tuples {
    ($($type:ident $number:tt),+) => {
        impl<$($type: ColumnType),+> Record for ($($type,)+) {
            fn fields() -> Vec<StateField> {
                vec![$(StateField::new(concat!("value_", $number), $type::KIND.data_type(), $type::NULLABLE)),+]
            }

            fn semantics() -> Vec<String> {
                vec![$($type::SEMANTICS.to_owned()),+]
            }

            #[inline]
            fn write(&self, out: &mut impl RecordWriter) -> Result<()> {
                $(out.put(&self.$number)?;)+
                Ok(())
            }

            #[inline]
            fn read(from: &mut impl RecordReader) -> Result<Self> {
                Ok(($(from.take::<$type>()?,)+))
            }
        }
    };
}
tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// Defines a struct whose fields are columns, each of a [`ColumnType`](crate::ColumnType).
///
/// ```
/// weir_sdk::record! {
///     /// How things stand with one airport.
///     #[derive(Clone, Debug, PartialEq)]
///     pub struct Streak {
///         pub since: weir_sdk::Timestamp,
///         pub windows: i64,
///         pub worst: Option<f64>,
///     }
/// }
/// ```
///
/// In state, a field may be added later if it is an `Option`: what was written before has a null there.
#[macro_export]
macro_rules! record {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident : $type:ty),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type),+
        }

        impl $crate::Record for $name {
            fn fields() -> ::std::vec::Vec<$crate::StateField> {
                ::std::vec![$($crate::StateField::new(
                    stringify!($field),
                    <$type as $crate::ColumnType>::KIND.data_type(),
                    <$type as $crate::ColumnType>::NULLABLE,
                )),+]
            }

            fn semantics() -> ::std::vec::Vec<::std::string::String> {
                ::std::vec![$(::std::string::String::from(<$type as $crate::ColumnType>::SEMANTICS)),+]
            }

            #[inline]
            fn write(&self, out: &mut impl $crate::RecordWriter) -> $crate::Result<()> {
                $($crate::RecordWriter::put(out, &self.$field)?;)+
                Ok(())
            }

            #[inline]
            fn read(from: &mut impl $crate::RecordReader) -> $crate::Result<Self> {
                Ok(Self { $($field: $crate::RecordReader::take::<$type>(from)?),+ })
            }
        }

        impl $crate::OutputRow for $name {
            #[inline]
            fn write_to(&self, out: &mut $crate::OutputWriter<'_>) -> $crate::Result<()> {
                $(out.push(&self.$field)?;)+
                Ok(())
            }
        }
    };
}
