//! Names that somebody may have meant.

/// The candidates, nearest to `name` first, each in backquotes: for messages. At most ten.
pub(crate) fn listed<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let mut candidates: Vec<&str> = candidates.into_iter().collect();
    // Stable: candidates equally far stay in the order in which they were declared.
    let share = |candidate: &str| distance(name, candidate) * 100 / name.len().max(candidate.len()).max(1);
    candidates.sort_by_key(|candidate| share(candidate));
    candidates.dedup();
    if candidates.is_empty() {
        return "none".to_owned();
    }
    let mut text = candidates.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if candidates.len() > SHOWN {
        text += &format!(" and {} more", candidates.len() - SHOWN);
    }
    text
}

/// The candidate that was surely meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerated = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two names (Levenshtein), ignoring case and separators.
fn distance(a: &str, b: &str) -> usize {
    let fold = |name: &str| -> Vec<char> {
        name.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).flat_map(char::to_lowercase).collect()
    };
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + (from != to) as usize;
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_comes_first() {
        assert_eq!(listed("orgin", ["dep_delay", "origin", "carrier"]), "`origin`, `carrier`, `dep_delay`");
        assert_eq!(nearest("depDelay", ["origin", "dep_delay"]), Some("dep_delay"));
        assert_eq!(nearest("zzz", ["origin"]), None);
        assert_eq!(listed("x", []), "none");
    }
}
