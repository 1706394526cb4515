//! Each join beside nested loops over whole tables.

mod interval;
mod regular;
mod window;

use crate::keyed::testing::*;
use proptest::prelude::*;
use weir_model::graph::JoinKind;

fn kinds() -> impl Strategy<Value = JoinKind> {
    use JoinKind::*;
    prop_oneof![Just(Inner), Just(Left), Just(Right), Just(Full), Just(Semi), Just(Anti)]
}

/// What SQL says. `matches` is the whole join condition; `widths` are the numbers of columns.
fn oracle(
    kind: JoinKind,
    widths: [usize; 2],
    left: &Table,
    right: &Table,
    matches: impl Fn(&Row, &Row) -> bool,
) -> Table {
    let mut result = Table::new();
    let mut add = |row: Row, count: i64| *result.entry(row).or_default() += count;
    let nulls = |width: usize| vec![None; width];
    for (l, left_count) in left {
        let matched: Vec<_> = right.iter().filter(|(r, _)| matches(l, r)).collect();
        match kind {
            JoinKind::Semi if !matched.is_empty() => add(l.clone(), *left_count),
            JoinKind::Anti if matched.is_empty() => add(l.clone(), *left_count),
            JoinKind::Left | JoinKind::Full if matched.is_empty() => {
                add([l.clone(), nulls(widths[1])].concat(), *left_count)
            }
            JoinKind::Semi | JoinKind::Anti => {}
            _ => matched
                .iter()
                .for_each(|(r, right_count)| add([l.as_slice(), r.as_slice()].concat(), left_count * **right_count)),
        }
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        for (r, right_count) in right.iter().filter(|(r, _)| !left.keys().any(|l| matches(l, r))) {
            add([nulls(widths[0]), r.clone()].concat(), *right_count);
        }
    }
    result
}

fn equal(l: Option<i64>, r: Option<i64>) -> bool {
    l.is_some() && l == r
}
