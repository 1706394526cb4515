//! What a new spec would mean for the running job: nothing is changed by asking.

use super::Shared;
use super::change::bytes;
use super::problem::{Answer, Failure};
use crate::job::{Job, Loaded, load_text};
use crate::preflight::{self, Fit, Preflight, StateFit};
use crate::start::StartError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde_json::Value;
use std::sync::Arc;
use weir_api::view::{Mistake, PlanEffect, PlanView, StateFit as FitView, StateVerdict};
use weir_crds::StreamJobSpec;
use weir_crds::text::{Diagnostic, Severity};
use weir_state::Verdict;

/// Changed fields that are named.
const SHOWN_CHANGES: usize = 100;

pub(super) async fn plan(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Json<PlanView>> {
    let text = String::from_utf8(bytes(body).await?.into());
    let text = text.map_err(|error| Failure::bad_request(format!("the body is not UTF-8: {error}")))?;
    let Ok(heavy) = shared.heavy.try_acquire() else {
        return Err(Failure::unavailable("others are planning; try again"));
    };
    let running = shared.running_job();
    // The planner computes, and storage is waited for.
    let planned = tokio::task::spawn_blocking(move || compare(&running, text)).await;
    drop(heavy);
    planned.map_err(|error| Failure::unavailable(format!("the planner broke off: {error}")))?.map(Json)
}

fn compare(running: &Job, text: String) -> Answer<PlanView> {
    let mut other = None;
    let loaded = load_text(text, running.folder.clone(), Arc::clone(&running.registry), |new| {
        let name = new.metadata.name.clone().unwrap_or_default();
        if name != running.name {
            other = Some(name);
        }
        new.metadata.uid = running.resource.metadata.uid.clone();
        Ok(())
    });
    if let Some(name) = other {
        return Err(Failure::conflict(format!(
            "this is the job `{}`, and the spec is that of `{name:.100}`",
            running.name
        )));
    }
    let Loaded { job, diagnostics, text: _ } = loaded;
    let mut view = PlanView { mistakes: diagnostics.into_iter().map(mistake).collect(), ..PlanView::default() };
    let Some(new) = job else { return Ok(view) };
    view.changes = differences(&running.resource.spec, &new.resource.spec);
    let takes_a_start = differences(&running.resource.spec.started_with(), &new.resource.spec.started_with());
    view.effect = match takes_a_start.as_slice() {
        [] => PlanEffect::Nothing,
        [only] if only == "spec.parallelism" => PlanEffect::Rescale,
        _ => PlanEffect::Restart,
    };
    let found = match preflight::against_running(&new, running) {
        Ok(found) => found,
        Err(StartError::Storage(reason)) => return Err(Failure::unavailable(reason)),
        Err(error) => Preflight { refusals: vec![error.to_string()], ..Preflight::default() },
    };
    view.from = found.from;
    view.states = found.states.into_iter().map(verdict).collect();
    view.refusals = found.refusals;
    view.fits = view.refusals.is_empty();
    Ok(view)
}

fn mistake(found: Diagnostic) -> Mistake {
    Mistake {
        is_warning: found.severity != Severity::Error,
        field_path: found.field_path,
        line: found.position.line as u64,
        column: found.position.column as u64,
        reason: found.reason,
        remedy: found.remedy,
    }
}

fn verdict(found: StateFit) -> StateVerdict {
    let StateFit { operator, state, fit } = found;
    let says = fit.to_string();
    let fit = match fit {
        Fit::Kept(Verdict::AsIs) => FitView::Kept,
        Fit::Kept(Verdict::Incompatible { .. }) => FitView::Incompatible,
        Fit::Kept(Verdict::Migrate { .. }) => FitView::Migrated,
        Fit::New => FitView::New,
        Fit::LetGo => FitView::LetGo,
        Fit::Unmatched => FitView::Unmatched,
    };
    StateVerdict { operator: operator.to_string(), state, fit, says }
}

fn differences(running: &StreamJobSpec, new: &StreamJobSpec) -> Vec<String> {
    let mut found = vec![];
    differing("spec".to_owned(), &running.canonical(), &new.canonical(), &mut found);
    found
}

/// The innermost fields that differ.
fn differing(path: String, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        _ if old == new || found.len() == SHOWN_CHANGES => {}
        (Value::Object(old), Value::Object(new)) => {
            let only_new = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(only_new) {
                let side = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                differing(format!("{path}.{name}"), &side(old), &side(new), found);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differing(format!("{path}[{index}]"), old, new, found);
            }
        }
        _ => found.push(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_innermost_fields_that_differ_are_named() {
        let old = json!({"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 1});
        let new = json!({"a": 1, "b": {"c": [1, 3], "d": "x", "e": {}}, "list": [1]});
        let mut found = vec![];
        differing("spec".to_owned(), &old, &new, &mut found);
        assert_eq!(found, ["spec.b.c[1]", "spec.b.e", "spec.gone", "spec.list"]);
        let mut none = vec![];
        differing("spec".to_owned(), &old, &old, &mut none);
        assert!(none.is_empty());
    }
}
