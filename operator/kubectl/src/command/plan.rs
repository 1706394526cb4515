//! What another spec would mean for the running job.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use weir_api::Operation;
use weir_api::view::PlanView;
use weir_crds::StreamJob;

use crate::cluster::Cluster;

/// Fails where the job would not start with it, so that a pipeline can ask.
pub async fn plan(cluster: &Cluster, file: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let name = name_of(&text).with_context(|| file.display().to_string())?;
    let answer = cluster.ask(&name, Operation::Plan, Some(text)).await?;
    let plan: PlanView = serde_json::from_str(&answer).context("the coordinator answers something else than a plan")?;
    print!("{}", described(&plan));
    Ok(if plan.fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name_of(text: &str) -> Result<String> {
    let job: StreamJob = serde_yaml::from_str(text).context("it is no StreamJob")?;
    job.metadata.name.ok_or_else(|| anyhow!("metadata.name is missing"))
}

fn described(plan: &PlanView) -> String {
    let mut lines = vec![match plan.fits {
        true => format!("it fits; {:?}", plan.effect),
        false => "the job would not start with it".to_owned(),
    }];
    lines.extend(plan.changes.iter().map(|change| format!("  changes {change}")));
    for mistake in &plan.mistakes {
        let word = if mistake.is_warning { "warning" } else { "error" };
        lines.push(format!(
            "  {word} in line {}, {}: {}; {}",
            mistake.line, mistake.field_path, mistake.reason, mistake.remedy
        ));
    }
    lines.extend(plan.refusals.iter().map(|refusal| format!("  refused: {refusal}")));
    lines.extend(plan.states.iter().map(|state| format!("  {}/{}: {}", state.operator, state.state, state.says)));
    lines.push(format!("it would start from {}", plan.from.as_deref().unwrap_or("nothing")));
    lines.join("\n") + "\n"
}
