//! The job file that most commands take, and what can be changed in it from the command line.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use weir_crds::StreamJob;
use weir_crds::text::render;
use weir_node::{Job, Loaded, Registry};

#[derive(Args)]
pub(crate) struct JobFile {
    /// The job file (YAML).
    pub(crate) file: PathBuf,
    /// Another parallelism than the file's.
    #[arg(short, long)]
    pub(crate) parallelism: Option<u32>,
    /// Another state backend than the file's.
    #[arg(long, value_parser = ["heap", "rocksdb"])]
    pub(crate) backend: Option<String>,
    /// Another value for a field: `spec.checkpoint.interval=1s`. Can be given several times.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

impl JobFile {
    pub(crate) fn load(&self, registry: Arc<Registry>) -> Result<Loaded> {
        weir_node::load(&self.file, registry, |job| self.adjust(job))
            .with_context(|| format!("cannot read `{}`", self.file.display()))
    }

    /// The job, or its mistakes on standard error.
    pub(crate) fn job(&self, registry: Arc<Registry>) -> Result<Job> {
        let Loaded { job, diagnostics, text } = self.load(registry)?;
        if !diagnostics.is_empty() {
            eprint!("{}", render(&diagnostics, &text, &self.file.display().to_string()));
        }
        job.with_context(|| format!("`{}` cannot be run as it is", self.file.display()))
    }

    fn adjust(&self, job: &mut StreamJob) -> Result<(), String> {
        if let Some(parallelism) = self.parallelism {
            job.spec.parallelism = Some(parallelism);
        }
        if let Some(backend) = &self.backend {
            let other = serde_json::json!({ backend.as_str(): {} });
            let same = job.spec.state_backend.as_ref().and_then(|current| serde_json::to_value(current).ok());
            if same.is_none_or(|current| current.get(backend).is_none()) {
                job.spec.state_backend = serde_json::from_value(other).map_err(|error| error.to_string())?;
            }
        }
        if !self.set.is_empty() {
            let mut value = serde_json::to_value(&*job).map_err(|error| error.to_string())?;
            for assignment in &self.set {
                set_field(&mut value, assignment).map_err(|error| format!("--set {assignment}: {error:#}"))?;
            }
            *job = serde_json::from_value(value).map_err(|error| format!("--set: {error}"))?;
        }
        let violations = weir_crds::validate::validate(job).into_iter();
        match violations.into_iter().find(|found| found.severity == weir_crds::validate::Severity::Error) {
            Some(violation) if self.parallelism.is_some() || !self.set.is_empty() => {
                Err(format!("{}: {}; {}", violation.field_path, violation.reason, violation.remedy))
            }
            _ => Ok(()),
        }
    }
}

/// Sets `a.b[0].c=value`; the value is read as YAML.
fn set_field(root: &mut Value, assignment: &str) -> Result<()> {
    let Some((path, text)) = assignment.split_once('=') else { bail!("write FIELD=VALUE") };
    let new: Value = serde_yaml::from_str(text).context("the value is not YAML")?;
    let mut place = root;
    for part in path.split('.') {
        let (name, indices) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        let Value::Object(fields) = place else { bail!("`{name}` is not inside an object") };
        place = fields.entry(name).or_insert(Value::Object(Default::default()));
        for index in indices.split(['[', ']']).filter(|index| !index.is_empty()) {
            let index: usize = index.parse().with_context(|| format!("`{index}` is not a number"))?;
            place = place.get_mut(index).with_context(|| format!("there is no element {index} in `{name}`"))?;
        }
    }
    *place = new;
    Ok(())
}
