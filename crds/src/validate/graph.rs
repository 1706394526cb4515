//! How the steps hang together, as far as their inputs are named outside of SQL.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, standing};
use crate::{
    streamjob::{BadRecords, Pipeline},
    suggest::{list, nearest},
};

pub(super) fn check(pipeline: &Pipeline, findings: &mut Findings) {
    transforms(pipeline, findings);
    operator_cycles(pipeline, findings);
    sink_inputs(pipeline, findings);
    dead_letters(pipeline, findings);
}

fn transforms(pipeline: &Pipeline, findings: &mut Findings) {
    for (index, transform) in pipeline.transforms.iter().enumerate() {
        let path = format!("spec.pipeline.transforms[{index}]");
        let named = standing(&[("sql", transform.sql.is_some()), ("operator", transform.operator.is_some())]);
        findings.exactly_one(&path, "computation", &named, &["sql", "operator"]);
        if transform.sql.as_deref().is_some_and(|sql| sql.trim().is_empty()) {
            findings.error(format!("{path}.sql"), "the query is empty", "write a SELECT over sources and transforms");
        }
        let Some(operator) = &transform.operator else { continue };
        let path = format!("{path}.operator");
        let named = standing(&[("input", operator.input.is_some()), ("inputs", operator.inputs.is_some())]);
        findings.exactly_one(&path, "input", &named, &["input", "inputs"]);
        if let Some(input) = &operator.input {
            reference(input, &format!("{path}.input"), pipeline, findings);
        }
        for (position, input) in operator.inputs.iter().flatten().enumerate() {
            reference(input, &format!("{path}.inputs[{position}]"), pipeline, findings);
        }
    }
}

/// Complains unless `name` is a source or a transform.
fn reference(name: &str, path: &str, pipeline: &Pipeline, findings: &mut Findings) {
    let readable: Vec<&str> = pipeline
        .sources
        .iter()
        .map(|source| source.name.as_str())
        .chain(pipeline.transforms.iter().map(|transform| transform.name.as_str()))
        .collect();
    if readable.contains(&name) {
        return;
    }
    let remedy = match nearest(name, readable.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("the sources and transforms are {}", list(readable)),
    };
    let reason = match pipeline.sinks.iter().any(|sink| sink.name == name) {
        true => format!("`{name}` is a sink; nothing can be read from it"),
        false => format!("there is no source or transform `{name}`"),
    };
    findings.error(path, reason, remedy);
}

/// Operators name their inputs, so a circle of them shows here; one through SQL shows when that is planned.
fn operator_cycles(pipeline: &Pipeline, findings: &mut Findings) {
    let inputs: BTreeMap<&str, Vec<&str>> = pipeline
        .transforms
        .iter()
        .filter_map(|transform| Some((transform.name.as_str(), transform.operator.as_ref()?.inputs())))
        .collect();
    let mut reported: BTreeSet<&str> = BTreeSet::new();
    for (index, transform) in pipeline.transforms.iter().enumerate() {
        if reported.contains(transform.name.as_str()) {
            continue;
        }
        if let Some(circle) = circle_through(&transform.name, &inputs) {
            let field =
                match pipeline.transforms[index].operator.as_ref().is_some_and(|operator| operator.input.is_some()) {
                    true => "input",
                    false => "inputs",
                };
            findings.error(
                format!("spec.pipeline.transforms[{index}].operator.{field}"),
                format!("the steps read each other in a circle: {}", circle.join(" <- ")),
                "let one of them read another step",
            );
            reported.extend(circle);
        }
    }
}

/// A way from `start` along inputs back to it: `a <- b <- a`.
fn circle_through<'a>(start: &'a str, inputs: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<Vec<&'a str>> {
    let mut visited = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while let Some(way) = ways.pop() {
        let last = *way.last().unwrap_or(&start);
        for input in inputs.get(last).into_iter().flatten() {
            let mut further = way.clone();
            further.push(input);
            if *input == start {
                return Some(further);
            }
            if visited.insert(*input) {
                ways.push(further);
            }
        }
    }
    None
}

fn sink_inputs(pipeline: &Pipeline, findings: &mut Findings) {
    let letter_sinks = dead_letter_sinks(pipeline);
    for (index, sink) in pipeline.sinks.iter().enumerate() {
        let path = format!("spec.pipeline.sinks[{index}].from");
        match (&sink.from, letter_sinks.get(sink.name.as_str())) {
            (Some(from), None) => reference(from, &path, pipeline, findings),
            (Some(_), Some(source)) => findings.error(
                path,
                format!("`{}` takes the bad records of source `{source}` and cannot read another step too", sink.name),
                "remove `from`, or give the bad records a sink of their own",
            ),
            (None, Some(_)) => {}
            (None, None) => {
                let steps = pipeline.transforms.iter().map(|transform| transform.name.as_str());
                let steps = steps.chain(pipeline.sources.iter().map(|source| source.name.as_str()));
                findings.error(
                    path,
                    "the sink reads nothing",
                    format!("add `from` with the name of a step: {}", list(steps)),
                );
            }
        }
    }
}

/// The sinks that take bad records, each with the first source that sends them.
fn dead_letter_sinks(pipeline: &Pipeline) -> BTreeMap<&str, &str> {
    let mut sinks = BTreeMap::new();
    for source in &pipeline.sources {
        if let Some(BadRecords::DeadLetter { sink }) = source.format.as_ref().map(|format| format.bad_records()) {
            sinks.entry(sink).or_insert(source.name.as_str());
        }
    }
    sinks
}

fn dead_letters(pipeline: &Pipeline, findings: &mut Findings) {
    for (index, source) in pipeline.sources.iter().enumerate() {
        let Some(BadRecords::DeadLetter { sink }) = source.format.as_ref().map(|format| format.bad_records()) else {
            continue;
        };
        if pipeline.sinks.iter().any(|candidate| candidate.name == sink) {
            continue;
        }
        let field = super::formats::source_format_field(source);
        let sinks: Vec<&str> = pipeline.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let remedy = match nearest(sink, sinks) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add a sink `{sink}` without `from`"),
        };
        findings.error(
            format!("spec.pipeline.sources[{index}].format.{field}.deadLetterSink"),
            format!("there is no sink `{sink}`"),
            remedy,
        );
    }
}
