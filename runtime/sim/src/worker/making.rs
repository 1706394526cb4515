//! Makes the tasks of an attempt, with the state that they start from.

use super::folder;
use crate::bugs::Bug;
use crate::job::{aggregate_uid, source_uid};
use crate::keeper::{FetchError, fetch, fetch_objects};
use crate::messages::{Deployment, RestoreFrom, SplitPosition, fence_name};
use crate::store::SimStore;
use crate::task::{AggregateTask, SourceTask, Task};
use std::sync::Arc;
use weir_coordinator::DeployFailure;
use weir_dataflow::in_flight::{InputDivision, Taker, share};
use weir_model::{KeyGroupRange, SubtaskInFlight, Watermark, WorkerId};
use weir_snapshot::savepoint::SavepointReader;
use weir_snapshot::{ObjectPath, OperatorManifest, SubtaskManifest, in_flight};
use weir_state::{
    CacheBudget, ColdConfig, KeyedState, KeyedStateHandle, SegmentRef, SegmentSource, StateConfig, StateError,
};

/// Makes the tasks that are placed on a worker.
pub(super) struct Making<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) worker: WorkerId,
    pub(super) storage: &'a crate::storage::SimStorage,
    pub(super) job: &'a crate::job::Job,
    pub(super) bug: Option<Bug>,
}

impl Making<'_> {
    pub(super) async fn tasks(&self) -> Result<Vec<Task>, DeployFailure> {
        let Deployment { fence, parallelism, slots, .. } = self.deployment;
        let own: Vec<u32> = (0..*parallelism).filter(|index| slots[*index as usize] == self.worker).collect();
        let fatal = |reason: String| DeployFailure { reason, is_fatal: true };
        let savepoint = match &self.deployment.restore {
            Some(RestoreFrom::Savepoint(uri)) => {
                let path = ObjectPath::parse(uri).map_err(|error| fatal(error.to_string()))?;
                let reader = SavepointReader::open(Arc::new(self.storage.clone()), path).await;
                Some(reader.map_err(|error| DeployFailure { reason: error.to_string(), is_fatal: false })?)
            }
            _ => None,
        };
        let operators: Vec<(weir_model::OperatorUid, Vec<SubtaskManifest>)> =
            match (&self.deployment.restore, &savepoint) {
                (Some(RestoreFrom::Checkpoint(manifest)), _) => {
                    let part = |operator: &OperatorManifest| (operator.uid.clone(), operator.subtasks.clone());
                    manifest.operators.iter().map(part).collect()
                }
                (_, Some(reader)) => {
                    let operators = reader.manifest().operators.iter();
                    operators.map(|operator| (operator.uid.clone(), operator.subtasks.clone())).collect()
                }
                _ => vec![],
            };
        let subtasks = |uid: weir_model::OperatorUid| {
            operators.iter().find(|(own, _)| *own == uid).map_or(vec![], |(_, subtasks)| subtasks.clone())
        };
        let json = |error: serde_json::Error| fatal(error.to_string());
        let (mut splits, mut watermark): (Vec<SplitPosition>, Option<Watermark>) = (vec![], None);
        for subtask in subtasks(source_uid()) {
            for split in subtask.splits {
                splits.push(serde_json::from_value(split).map_err(json)?);
            }
            if let Some(own) = subtask.operator {
                let own: Watermark = serde_json::from_value(own).map_err(json)?;
                watermark = Some(watermark.map_or(own, |least| least.min(own)));
            }
        }
        let handles: Vec<KeyedStateHandle> = subtasks(aggregate_uid())
            .into_iter()
            .filter_map(|subtask| subtask.keyed)
            .map(|keyed| serde_json::from_value(keyed).map_err(json))
            .collect::<Result<_, _>>()?;
        let mut tasks = vec![];
        for index in &own {
            let source = SourceTask::new(*index, *parallelism, self.job, &splits, watermark, self.bug);
            tasks.push(Task::Source(Box::new(source)));
        }
        for index in &own {
            let state = self.state(*index, &handles, savepoint.as_ref()).await?;
            let in_flight = self.in_flight(*index, &subtasks(aggregate_uid())).await?;
            let attempt = fence_name(*fence);
            let task = AggregateTask::new(*index, *parallelism, self.job, state, in_flight, attempt, self.bug);
            tasks.push(Task::Aggregate(Box::new(task.map_err(|error| fatal(error.to_string()))?)));
        }
        Ok(tasks)
    }

    /// What of the restored checkpoint's rows in flight the subtask takes.
    async fn in_flight(&self, index: u32, old: &[SubtaskManifest]) -> Result<Vec<SubtaskInFlight>, DeployFailure> {
        let fatal = |reason: String| DeployFailure { reason, is_fatal: true };
        let json = |error: serde_json::Error| fatal(error.to_string());
        let (parallelism, max_parallelism) = (self.deployment.parallelism, self.job.max_parallelism);
        let taker = Taker { subtask: index, parallelism, max_parallelism };
        let division = [InputDivision::Keyed { key_columns: vec![0] }];
        let stays = old.len() as u64 == u64::from(parallelism);
        let mut own = vec![];
        for subtask in old.iter().filter(|subtask| !stays || subtask.index == index) {
            let watermark = subtask.operator.clone().map(serde_json::from_value).transpose().map_err(json)?;
            let segment: Option<SegmentRef> =
                subtask.in_flight.clone().map(serde_json::from_value).transpose().map_err(json)?;
            let Some(segment) = segment else {
                let watermark = watermark.unwrap_or(Watermark::MIN);
                own.push(SubtaskInFlight { watermark, channels: vec![] });
                continue;
            };
            let segments = fetch_objects(&folder(self.storage), [&segment]).await.map_err(failed)?;
            let bytes = segments.read(&segment).map_err(|error| fatal(error.to_string()))?;
            let all = in_flight::decode(&bytes).map_err(|error| fatal(error.to_string()))?;
            let shared = share(&all, subtask.index, old.len() as u32, taker, &division);
            own.push(shared.map_err(|error| fatal(error.to_string()))?);
        }
        Ok(own)
    }

    async fn state(
        &self,
        index: u32,
        handles: &[KeyedStateHandle],
        savepoint: Option<&SavepointReader>,
    ) -> Result<KeyedState, DeployFailure> {
        let max_parallelism = self.job.max_parallelism;
        let key_groups = KeyGroupRange::of_subtask(index, self.deployment.parallelism, max_parallelism);
        let mut restored_groups = key_groups;
        if self.bug == Some(Bug::RangeOneTooShort) && key_groups.len() > 1 {
            restored_groups.last -= 1;
        }
        let mut meeting: Vec<KeyedStateHandle> =
            handles.iter().filter(|handle| handle.key_groups.intersect(&restored_groups).is_some()).cloned().collect();
        if restored_groups != key_groups {
            // What the range leaves out reads as empty.
            for run in meeting.iter_mut().flat_map(|handle| &mut handle.states).flat_map(|state| &mut state.runs) {
                if let Some(both) = run.key_groups.intersect(&restored_groups) {
                    run.key_groups = both;
                }
            }
        }
        let fatal = |error: StateError| DeployFailure { reason: error.to_string(), is_fatal: true };
        let segments = fetch(&folder(self.storage), &meeting).await.map_err(failed)?;
        let config = StateConfig { key_groups, max_parallelism };
        let mut state = match self.job.cache_bytes {
            None => KeyedState::open(config, &meeting, &segments),
            Some(bytes) => {
                let store = SimStore::open(&meeting, restored_groups, &segments, self.bug).map_err(fatal)?;
                let cold = ColdConfig { store: Arc::new(store), cache: CacheBudget::new(bytes) };
                KeyedState::open_cold(config, cold, &mut [], &meeting, &segments)
            }
        }
        .map_err(fatal)?;
        if let Some(reader) = savepoint {
            let transient = |reason: String| DeployFailure { reason, is_fatal: false };
            let aggregate = reader.manifest().operators.iter().find(|operator| operator.uid == aggregate_uid());
            for schema in aggregate.iter().flat_map(|operator| &operator.states).map(|state| &state.schema) {
                state.import(schema, &[]).map_err(fatal)?;
                let rows = reader.read_state(&aggregate_uid(), &schema.name, restored_groups);
                let mut rows = rows.map_err(|error| transient(error.to_string()))?;
                while let Some(batch) = rows.next().await.map_err(|error| transient(error.to_string()))? {
                    state.import(schema, batch.columns()).map_err(fatal)?;
                }
            }
        }
        Ok(state)
    }
}

fn failed(FetchError { reason, is_transient }: FetchError) -> DeployFailure {
    DeployFailure { reason, is_fatal: !is_transient }
}
