//! Names and parallelism.

use std::collections::BTreeMap;

use regex::Regex;

use super::Findings;
use crate::{
    StreamJob, defaults,
    rules::{DNS_LABEL_PATTERN, MAX_JOB_NAME_LENGTH, MAX_NAME_LENGTH},
    streamjob::StreamJobSpec,
};

pub(super) fn check(job: &StreamJob, findings: &mut Findings) {
    match job.metadata.name.as_deref() {
        None | Some("") => findings.error("metadata.name", "the job has no name", "add `name` under `metadata`"),
        Some(name) => label(name, "metadata.name", MAX_JOB_NAME_LENGTH, findings),
    }
    step_names(&job.spec, findings);
    parallelism(&job.spec, findings);
}

/// A step of the pipeline: its path, its name, its own parallelism.
pub(super) fn steps(spec: &StreamJobSpec) -> Vec<(String, &str, Option<u32>)> {
    let pipeline = &spec.pipeline;
    let sources =
        pipeline.sources.iter().enumerate().map(|(index, source)| {
            (format!("spec.pipeline.sources[{index}]"), source.name.as_str(), source.parallelism)
        });
    let transforms = pipeline.transforms.iter().enumerate().map(|(index, transform)| {
        (format!("spec.pipeline.transforms[{index}]"), transform.name.as_str(), transform.parallelism)
    });
    let sinks = pipeline
        .sinks
        .iter()
        .enumerate()
        .map(|(index, sink)| (format!("spec.pipeline.sinks[{index}]"), sink.name.as_str(), sink.parallelism));
    sources.chain(transforms).chain(sinks).collect()
}

fn step_names(spec: &StreamJobSpec, findings: &mut Findings) {
    let mut first_uses: BTreeMap<&str, String> = BTreeMap::new();
    for (path, name, _) in steps(spec) {
        let path = format!("{path}.name");
        label(name, &path, MAX_NAME_LENGTH, findings);
        match first_uses.get(name) {
            Some(first) => findings.error(
                path,
                format!("the name `{name}` is taken by {}", first.trim_end_matches(".name")),
                "give each step a name of its own: state is matched by it",
            ),
            None => {
                first_uses.insert(name, path);
            }
        }
    }
    let pipeline = &spec.pipeline;
    if pipeline.sources.is_empty() {
        findings.error("spec.pipeline.sources", "the job has no source", "add one");
    }
    if pipeline.sinks.is_empty() {
        findings.error("spec.pipeline.sinks", "the job has no sink", "add one; `print: {}` shows records");
    }
}

fn label(name: &str, path: &str, max_length: u32, findings: &mut Findings) {
    let pattern = Regex::new(DNS_LABEL_PATTERN).expect("the pattern of DNS labels is a regular expression");
    if !pattern.is_match(name) {
        findings.error(
            path,
            format!("`{name}` cannot be a name"),
            "use lower-case letters, digits and '-'; begin and end with a letter or digit",
        );
    } else if name.len() > max_length as usize {
        findings.error(path, format!("{} characters long", name.len()), format!("at most {max_length} are allowed"));
    }
}

fn parallelism(spec: &StreamJobSpec, findings: &mut Findings) {
    let max = spec.max_parallelism();
    if !(1..=defaults::MAX_PARALLELISM_LIMIT).contains(&max) {
        findings.error(
            "spec.maxParallelism",
            format!("{max} key groups cannot be"),
            format!("write a number from 1 to {}", defaults::MAX_PARALLELISM_LIMIT),
        );
    }
    let own = steps(spec).into_iter().filter_map(|(path, _, own)| Some((format!("{path}.parallelism"), own?)));
    for (path, parallelism) in spec.parallelism.map(|own| ("spec.parallelism".to_owned(), own)).into_iter().chain(own) {
        if parallelism == 0 {
            findings.error(
                path,
                "there must be at least one subtask",
                "write 1 or more; to stop a job set spec.state: Suspended",
            );
        } else if parallelism > max {
            findings.error(
                path,
                format!("parallelism {parallelism} exceeds maxParallelism {max}, the number of key groups"),
                format!("write {max} or less, or give a new job a larger spec.maxParallelism"),
            );
        }
    }
}
