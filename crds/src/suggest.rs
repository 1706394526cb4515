//! The name that somebody meant.

/// The candidate nearest to `name`, if one is near enough to be meant: a slip of case, two letters swapped, one in
/// three wrong, or one name the beginning of the other.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(name);
    let tolerated = (folded.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .filter_map(|candidate| {
            let other = fold(candidate);
            let distance = strsim::damerau_levenshtein(&folded, &other);
            let prefix =
                folded.len() >= 3 && (other.starts_with(&folded) || folded.starts_with(&other) && other.len() >= 3);
            (distance <= tolerated || prefix).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and separators are what people get wrong most.
fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

/// `a`, `b` and `c`, each in backquotes; what is beyond the sixteenth is counted.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 16;
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        return format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN);
    }
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let fields = ["parallelism", "maxParallelism", "state", "stateBackend", "checkpoint", "savepoints"];
        for (written, meant) in [
            ("paralellism", Some("parallelism")),
            ("Parallelism", Some("parallelism")),
            ("max_parallelism", Some("maxParallelism")),
            ("checkpoints", Some("checkpoint")),
            ("chekpoint", Some("checkpoint")),
            ("savepoint", Some("savepoints")),
            ("replicas", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, fields), meant, "{written}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(list([]), "none");
        let many: Vec<String> = (0..18).map(|n| n.to_string()).collect();
        assert!(list(many.iter().map(String::as_str)).ends_with("`15` and 2 more"));
    }
}
