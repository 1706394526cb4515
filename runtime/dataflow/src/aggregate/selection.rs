//! Which rows of a batch count for an aggregate, and whether they add or take back.

use arrow::array::{Array, BooleanArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};

/// The rows that count.
#[derive(Clone, Debug)]
pub enum Selection<'a> {
    /// The first `n`, all adding: a batch without filter, null or retraction.
    All(usize),
    /// The set ones, all adding.
    Set(BooleanBuffer),
    /// +1 adds, -1 takes back, 0 doesn't count.
    Signed(std::borrow::Cow<'a, [i8]>),
    /// These rows with these signs, in this order.
    Listed(&'a [(u32, i8)]),
}

impl Selection<'_> {
    /// Calls `f(row, retract)` for each row. Inlined, so that `f` is compiled once per kind of selection,
    /// with `retract` known to be false where it always is.
    #[inline(always)]
    pub fn each(&self, mut f: impl FnMut(usize, bool)) {
        match self {
            Selection::All(rows) => (0..*rows).for_each(|row| f(row, false)),
            Selection::Set(rows) => rows.set_indices().for_each(|row| f(row, false)),
            Selection::Signed(signs) => {
                for (row, sign) in signs.iter().enumerate() {
                    if *sign != 0 {
                        f(row, *sign < 0);
                    }
                }
            }
            Selection::Listed(rows) => rows.iter().for_each(|(row, sign)| f(*row as usize, *sign < 0)),
        }
    }

    /// Those of these rows where `filter` is true and `nulls` has no null.
    pub fn narrowed(&self, filter: Option<&BooleanArray>, nulls: Option<&NullBuffer>) -> Selection<'_> {
        let filter = filter.map(|filter| match filter.nulls() {
            Some(valid) => filter.values() & valid.inner(),
            None => filter.values().clone(),
        });
        let wanted = match (filter, nulls) {
            (None, None) => {
                return match self {
                    Selection::All(rows) => Selection::All(*rows),
                    Selection::Set(rows) => Selection::Set(rows.clone()),
                    Selection::Signed(signs) => Selection::Signed(std::borrow::Cow::Borrowed(signs)),
                    Selection::Listed(rows) => Selection::Listed(rows),
                };
            }
            (Some(filter), None) => filter,
            (None, Some(nulls)) => nulls.inner().clone(),
            (Some(filter), Some(nulls)) => &filter & nulls.inner(),
        };
        match self {
            Selection::All(_) => Selection::Set(wanted),
            Selection::Set(rows) => Selection::Set(rows & &wanted),
            Selection::Signed(signs) => {
                let signs = signs.iter().enumerate();
                Selection::Signed(signs.map(|(row, sign)| if wanted.value(row) { *sign } else { 0 }).collect())
            }
            Selection::Listed(_) => unreachable!("a list of rows is the result of narrowing"),
        }
    }
}
