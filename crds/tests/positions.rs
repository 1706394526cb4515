//! From a field, and from a place in a query, back to the file.

use weir_crds::text::{Position, parse_streamjob};

const JOB: &str = r#"# a comment
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: texts}
spec:
  pipeline:
    sources: [{name: in, nexmark: {table: Bid}}]
    transforms:
    - name: literal
      sql: |  # a comment
        SELECT a,
          b

        FROM t
    - name: folded
      sql: >-
        SELECT a
        FROM t
    - {name: plain, sql: SELECT a
          FROM t}
    - name: single
      sql: 'SELECT ''x''
        FROM t'
    - name: double
      sql: "SELECT \"x\" \
        FROM\tt"
    - name: indented
      sql: |2
          SELECT a
        FROM t
    sinks: [{name: out, from: in, blackhole: {}}]
"#;

/// The place in the file of the first `wanted` in the text of transform `index` stands before `wanted` there too.
fn check(index: usize, wanted: &str) {
    let parsed = parse_streamjob(JOB).unwrap();
    let sql = parsed.job.spec.pipeline.transforms[index].sql.clone().unwrap();
    let before = &sql[..sql.find(wanted).unwrap_or_else(|| panic!("{wanted} is not in {sql:?}"))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    let path = format!("spec.pipeline.transforms[{index}].sql");
    let Position { line, column } = parsed.map_text_position(&path, line, column).unwrap();
    let source = JOB.lines().nth(line - 1).unwrap();
    let found: String = source.chars().skip(column - 1).collect();
    assert!(found.starts_with(wanted), "{wanted} of {sql:?} found at {line}:{column}: {found:?}");
}

#[test]
fn a_place_in_a_query_is_a_place_in_the_file() {
    for (index, words) in [
        (0, "SELECT|a,|b|FROM|t"),
        (1, "SELECT|a|FROM|t"),
        (2, "SELECT|FROM"),
        (3, "SELECT|x|FROM"),
        (4, "SELECT|FROM"),
    ] {
        words.split('|').for_each(|word| check(index, word));
    }
    check(5, "SELECT");
    check(5, "FROM");
}

#[test]
fn a_place_beyond_a_query_is_its_end() {
    let parsed = parse_streamjob(JOB).unwrap();
    let at = |line, column| parsed.map_text_position("spec.pipeline.transforms[0].sql", line, column);
    assert_eq!(at(1, 1), Some(Position { line: 15, column: 9 }));
    assert_eq!(at(99, 1), Some(Position { line: 18, column: 15 }));
    assert_eq!(at(1, 99), Some(Position { line: 15, column: 18 }));
    assert_eq!(parsed.map_text_position("spec.pipeline.transforms[9].sql", 1, 1), None);
}

#[test]
fn a_field_has_a_place_and_an_absent_one_its_neighbourhood() {
    let parsed = parse_streamjob(JOB).unwrap();
    let at = |path| parsed.position_of(path).map(|position| (position.line, position.column));
    assert_eq!(at("metadata.name"), Some((8, 18)));
    assert_eq!(at("spec.pipeline"), Some((10, 3)));
    assert_eq!(at("spec.pipeline.sources[0].name"), Some((11, 22)));
    assert_eq!(at("spec.pipeline.sources[0].watermark"), Some((11, 15)));
    assert_eq!(at("spec.pipeline.sources[0].nexmark.seed"), Some((11, 26)));
    assert_eq!(at("spec.pipeline.sources[0].nexmark"), Some((11, 26)));
    assert_eq!(at("spec.checkpoint.interval"), Some((9, 1)));
    assert_eq!(at("spec.pipeline.transforms[0].sql"), Some((14, 7)));
}
