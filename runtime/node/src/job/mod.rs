//! A job as it is run: the StreamJob read from its file, checked, its connectors set up and its SQL planned.

mod connectors;
mod pipeline;
mod secrets;
mod storage;

use crate::registry::Registry;
use connectors::Connectors;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_connectors::api::{Sink, Source};
use weir_crds::StreamJob;
use weir_crds::streamjob::StreamJobSpec;
use weir_crds::text::{Diagnostic, Parsed, Position, Severity, check_streamjob};
use weir_model::UpdateBeforeUse;
use weir_model::graph::{JobGraph, NodeKind};
use weir_sql::PlanError;

/// Everything about a job that doesn't change while it runs.
pub struct Job {
    pub name: String,
    /// What tells this job's checkpoints and pending output from those of others: the resource's UID in a cluster,
    /// its name elsewhere.
    pub uid: String,
    pub resource: StreamJob,
    pub graph: JobGraph,
    pub(crate) sources: HashMap<String, Arc<dyn Source>>,
    pub(crate) sinks: HashMap<String, Arc<dyn Sink>>,
    pub(crate) registry: Arc<Registry>,
    /// The folder of the job file.
    pub folder: PathBuf,
}

/// What came of reading a job: perhaps a job, and everything that was found on the way.
pub struct Loaded {
    /// None if there are errors.
    pub job: Option<Job>,
    pub diagnostics: Vec<Diagnostic>,
    /// The file's text, for showing the diagnostics in it.
    pub text: String,
}

impl Loaded {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Reads and plans the job in the file at `path`. `adjust` changes the parsed resource before it is planned
/// (`--set`, `-p`).
pub fn load(
    path: &Path,
    registry: Arc<Registry>,
    adjust: impl FnOnce(&mut StreamJob) -> Result<(), String>,
) -> std::io::Result<Loaded> {
    let text = std::fs::read_to_string(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize()?;
    Ok(load_text(text, folder, registry, adjust))
}

/// As `load`, of a text that stands in a file of `folder`.
pub fn load_text(
    text: String,
    folder: PathBuf,
    registry: Arc<Registry>,
    adjust: impl FnOnce(&mut StreamJob) -> Result<(), String>,
) -> Loaded {
    let checked = check_streamjob(&text);
    let has_errors = checked.has_errors();
    let mut diagnostics = checked.diagnostics;
    let Some(mut parsed) = checked.parsed else { return Loaded { job: None, diagnostics, text } };
    if let Err(reason) = adjust(&mut parsed.job) {
        diagnostics.push(whole_file(reason, "see `weir run --help`"));
        return Loaded { job: None, diagnostics, text };
    }
    let Connectors { sources, sinks, problems } = connectors::set_up(&parsed.job.spec, &registry);
    diagnostics.extend(problems.into_iter().map(|problem| problem.locate(&parsed)));

    // A source that could not be set up has no columns: what follows from that is not the SQL's mistake.
    let all_sources = sources.len() == parsed.job.spec.pipeline.sources.len();
    let graph = match plan(&parsed.job.spec, &sources, &sinks, &registry) {
        Ok(graph) => Some(graph),
        Err(errors) => {
            if all_sources {
                for found in errors.into_iter().map(|error| locate(error, &parsed)) {
                    // Of a sink that reads no step the field itself has been named already.
                    let from = format!("{}.from", found.field_path);
                    if !diagnostics.iter().any(|said| said.field_path == from) {
                        diagnostics.push(found);
                    }
                }
            }
            None
        }
    };
    if let Some(graph) = &graph {
        diagnostics.extend(check_sinks(graph, &sinks, &parsed));
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.position);
    diagnostics.dedup();

    let failed = has_errors || diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    let job = graph.filter(|_| !failed).map(|graph| {
        let name = parsed.job.metadata.name.clone().unwrap_or_default();
        let uid = parsed.job.metadata.uid.clone().unwrap_or_else(|| name.clone());
        Job { name, uid, resource: parsed.job, graph, sources, sinks, registry, folder }
    });
    Loaded { job, diagnostics, text }
}

fn plan(
    spec: &StreamJobSpec,
    sources: &HashMap<String, Arc<dyn Source>>,
    sinks: &HashMap<String, Arc<dyn Sink>>,
    registry: &Registry,
) -> Result<JobGraph, Vec<PlanError>> {
    let mut graph = weir_sql::plan(&pipeline::definition(spec, sources), registry)?;
    let use_of = |sink: &str| sinks.get(sink).map_or(UpdateBeforeUse::All, |sink| sink.update_before_use());
    weir_sql::leave_out_unread_retractions(&mut graph, use_of);
    Ok(graph)
}

impl Job {
    /// That of every step which has none of its own.
    pub fn parallelism(&self) -> u32 {
        self.resource.spec.parallelism()
    }

    /// The same job with another parallelism. Steps that have one of their own keep it.
    ///
    /// # Errors
    /// Why it can't have this one, in words.
    pub fn at_parallelism(&self, parallelism: u32) -> Result<Job, String> {
        let max = self.graph.max_parallelism;
        if !(1..=max).contains(&parallelism) {
            return Err(format!(
                "parallelism {parallelism} is not possible: choose one from 1 to {max}, the maxParallelism that the \
                 job's state is divided by; that cannot change while the job keeps its state"
            ));
        }
        let mut resource = self.resource.clone();
        resource.spec.parallelism = Some(parallelism);
        let graph = plan(&resource.spec, &self.sources, &self.sinks, &self.registry).map_err(|errors| {
            let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("the job cannot be planned with parallelism {parallelism}: {}", problems.join("; "))
        })?;
        Ok(Job {
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource,
            graph,
            sources: self.sources.clone(),
            sinks: self.sinks.clone(),
            registry: Arc::clone(&self.registry),
            folder: self.folder.clone(),
        })
    }

    /// The plan, for people.
    pub fn explain(&self) -> String {
        weir_sql::explain(&self.graph)
    }

    /// Where the job's checkpoints stand: what the spec says, else `.weir` beside the job file. A relative path
    /// (`file://./checkpoints`) is relative to where this process was started, as those of files are.
    pub fn storage_uri(&self) -> String {
        match self.resource.spec.storage_uri() {
            Some(uri) => absolute_uri(uri),
            None => format!("file://{}/.weir", self.folder.display()),
        }
    }
}

fn absolute_uri(uri: &str) -> String {
    let relative = uri.strip_prefix("file://").filter(|path| path.starts_with('.'));
    match relative.map(std::path::absolute) {
        Some(Ok(path)) => format!("file://{}", path.display()),
        // Without a current directory: the storage refuses it, and says why.
        Some(Err(_)) | None => uri.to_owned(),
    }
}

/// Asks every sink whether it can take what its node gets.
fn check_sinks(graph: &JobGraph, sinks: &HashMap<String, Arc<dyn Sink>>, parsed: &Parsed) -> Vec<Diagnostic> {
    let nodes = graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Sink));
    let refused = nodes.filter_map(|node| {
        let error = sinks.get(&node.step)?.check(&node.schema.fields).err()?;
        let index = parsed.job.spec.pipeline.sinks.iter().position(|sink| sink.name == node.step)?;
        let path = format!("spec.pipeline.sinks[{index}]");
        Some(Diagnostic {
            severity: Severity::Error,
            position: parsed.position_of(&path).unwrap_or(Position::START),
            length: 1,
            field_path: path,
            reason: error.to_string(),
            remedy: "change the sink, or what it reads (`from`)".to_owned(),
        })
    });
    refused.collect()
}

fn locate(error: PlanError, parsed: &Parsed) -> Diagnostic {
    let PlanError { step, line, column, reason, remedy } = error;
    let pipeline = &parsed.job.spec.pipeline;
    let transform = pipeline.transforms.iter().position(|transform| transform.name == step);
    let sink = pipeline.sinks.iter().position(|sink| sink.name == step);
    let source = pipeline.sources.iter().position(|source| source.name == step);
    let path = match (transform, sink, source) {
        (Some(index), ..) if pipeline.transforms[index].sql.is_some() => {
            let path = format!("spec.pipeline.transforms[{index}].sql");
            if let (Some(line), Some(column)) = (line, column) {
                let place = Position { line: line as usize, column: column as usize };
                return parsed.diagnostic_in_text(&path, place, reason, remedy);
            }
            path
        }
        (Some(index), ..) => format!("spec.pipeline.transforms[{index}]"),
        (_, Some(index), _) => format!("spec.pipeline.sinks[{index}]"),
        (.., Some(index)) => format!("spec.pipeline.sources[{index}]"),
        _ => "spec.pipeline".to_owned(),
    };
    let position = parsed.position_of(&path).unwrap_or(Position::START);
    Diagnostic { severity: Severity::Error, position, length: 1, field_path: path, reason, remedy }
}

fn whole_file(reason: String, remedy: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        position: Position::START,
        length: 1,
        field_path: String::new(),
        reason,
        remedy: remedy.to_owned(),
    }
}

/// A mistake in one field of the spec.
pub(crate) struct Problem {
    pub(crate) field_path: String,
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl Problem {
    fn locate(self, parsed: &Parsed) -> Diagnostic {
        let Problem { field_path, reason, remedy } = self;
        let position = parsed.position_of(&field_path).unwrap_or(Position::START);
        Diagnostic { severity: Severity::Error, position, length: 1, field_path, reason, remedy }
    }
}
