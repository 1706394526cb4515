//! The rows of docs/failure-matrix.md: what the tests try is what is promised there, within the time that stands there.

use std::time::Duration;

const PAGE: &str = include_str!("../../docs/failure-matrix.md");

/// How long the job may take until it does again what it should. Of a row that is not in the page it panics: a test
/// without a promise is as wrong as a promise without a test.
pub fn bound(row: &str) -> Duration {
    let cell = format!("| `{row}` |");
    let line = PAGE.lines().find(|line| line.starts_with(&cell));
    let last = line.and_then(|line| line.trim_end_matches(['|', ' ']).rsplit('|').next()).map(str::trim);
    let seconds = last.and_then(|text| text.strip_suffix(" s")?.parse().ok());
    Duration::from_secs(
        seconds.unwrap_or_else(|| panic!("docs/failure-matrix.md has no row `{row}` that ends with `N s`")),
    )
}

/// All rows, in their order.
pub fn rows() -> Vec<&'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(row, _)| row)).collect()
}
