/// The names there are, for an error message; the one that was probably meant first.
pub(crate) fn listed<'n>(wanted: &str, known: impl Iterator<Item = &'n str>) -> String {
    let mut known: Vec<&str> = known.collect();
    if known.is_empty() {
        return "none".to_owned();
    }
    known.sort_by(|a, b| strsim::jaro_winkler(wanted, b).total_cmp(&strsim::jaro_winkler(wanted, a)));
    known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name of those there are that was probably meant.
pub(crate) fn nearest<'n>(wanted: &str, known: &[&'n str]) -> Option<&'n str> {
    /// Below, names have little more in common than letters.
    const ALIKE: f64 = 0.8;
    let score = |name: &str| strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase());
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= ALIKE).then_some(best)
}
