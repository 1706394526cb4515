//! What a spec says once the defaults are applied.

use std::time::Duration;

use super::*;
use crate::{duration::HumanDuration, quantity::ByteSize};

impl StreamJobSpec {
    pub fn parallelism(&self) -> u32 {
        self.parallelism.unwrap_or(defaults::PARALLELISM)
    }

    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism.unwrap_or(defaults::MAX_PARALLELISM)
    }

    pub fn state(&self) -> JobState {
        self.state.unwrap_or(defaults::STATE)
    }

    /// Whether checkpoints are taken at all: only where the spec has the section.
    pub fn checkpointing_enabled(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// From one checkpoint's trigger to the next; `None` where none are taken.
    pub fn checkpoint_interval(&self) -> Option<Duration> {
        self.checkpoint.as_ref().map(CheckpointPolicy::interval)
    }

    /// The storage URI of checkpoints, where the spec names one.
    pub fn storage_uri(&self) -> Option<&str> {
        Some(self.checkpoint.as_ref()?.storage.as_ref()?.uri.as_str())
    }

    pub fn state_backend(&self) -> StateBackendKind {
        self.state_backend.as_ref().map_or(StateBackendKind::Heap, StateBackend::kind)
    }

    /// Whether workers keep copies of the latest checkpoint on their disks.
    pub fn local_recovery(&self) -> bool {
        self.state_backend.as_ref().map_or(defaults::LOCAL_RECOVERY, StateBackend::local_recovery)
    }

    /// The restart strategy; what it is without a word depends on whether checkpoints are taken.
    pub fn restart(&self) -> EffectiveRestart {
        let named = self.restart.as_ref().and_then(RestartStrategy::effective);
        named.unwrap_or_else(|| match self.checkpointing_enabled() {
            true => ExponentialDelay::default().effective(),
            false => EffectiveRestart::None,
        })
    }

    /// Subtasks of a step, given what the step itself says.
    pub fn step_parallelism(&self, own: Option<u32>) -> u32 {
        own.unwrap_or_else(|| self.parallelism())
    }

    pub fn upgrade(&self) -> UpgradePolicy {
        self.upgrade.clone().unwrap_or_default()
    }

    /// What a first start restores from.
    pub fn restore_from(&self) -> RestoreOrigin<'_> {
        let named = self.restore.as_ref().and_then(|restore| restore.from.as_ref()).and_then(RestoreFrom::origin);
        named.unwrap_or(RestoreOrigin::Latest)
    }

    pub fn restore_if_missing(&self) -> IfMissing {
        self.restore.as_ref().and_then(|restore| restore.if_missing).unwrap_or(defaults::RESTORE_IF_MISSING)
    }

    pub fn restore_if_broken(&self) -> IfBroken {
        self.restore.as_ref().and_then(|restore| restore.if_broken).unwrap_or(defaults::RESTORE_IF_BROKEN)
    }

    pub fn worker_slots(&self) -> u32 {
        let workers = self.pods.as_ref().and_then(|pods| pods.workers.as_ref());
        workers.and_then(|workers| workers.slots).unwrap_or(defaults::WORKER_SLOTS)
    }

    pub fn allow_non_restored_state(&self) -> bool {
        self.upgrade.as_ref().is_some_and(UpgradePolicy::allow_non_restored_state)
    }
}

impl CheckpointPolicy {
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(defaults::CHECKPOINT_INTERVAL).get()
    }

    pub fn mode(&self) -> CheckpointMode {
        self.mode.unwrap_or(defaults::CHECKPOINT_MODE)
    }

    pub fn min_pause(&self) -> Duration {
        self.min_pause.unwrap_or(defaults::CHECKPOINT_MIN_PAUSE).get()
    }

    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(defaults::CHECKPOINT_TIMEOUT).get()
    }

    pub fn max_concurrent(&self) -> u32 {
        self.max_concurrent.unwrap_or(defaults::CHECKPOINT_MAX_CONCURRENT)
    }

    pub fn tolerable_failures(&self) -> u32 {
        self.tolerable_failures.unwrap_or(defaults::CHECKPOINT_TOLERABLE_FAILURES)
    }

    /// With unaligned checkpoints: how long one may stay aligned, from its trigger. `None`: always aligned.
    pub fn aligned_timeout(&self) -> Option<Duration> {
        let unaligned = self.unaligned.as_ref()?;
        unaligned
            .enabled
            .unwrap_or(defaults::UNALIGNED_ENABLED)
            .then(|| unaligned.aligned_timeout.unwrap_or(defaults::UNALIGNED_ALIGNED_TIMEOUT).get())
    }

    pub fn retain_count(&self) -> u32 {
        self.retain.as_ref().and_then(|retain| retain.count).unwrap_or(defaults::CHECKPOINT_RETAIN_COUNT)
    }

    pub fn retain_max_age(&self) -> Option<Duration> {
        self.retain.as_ref().and_then(|retain| retain.max_age).map(HumanDuration::get)
    }

    pub fn on_delete(&self) -> DeletionPolicy {
        self.on_delete.unwrap_or(defaults::CHECKPOINT_ON_DELETE)
    }
}

/// The state backend with every setting decided, except those that the profile decides.
#[derive(Clone, Debug, PartialEq)]
pub enum StateBackendKind {
    Heap,
    RocksDb(RocksDbOptions),
}

impl StateBackend {
    pub fn kind(&self) -> StateBackendKind {
        match &self.rocksdb {
            Some(options) => StateBackendKind::RocksDb(options.clone()),
            None => StateBackendKind::Heap,
        }
    }

    /// Whether workers keep copies of the latest checkpoint on their disks.
    pub fn local_recovery(&self) -> bool {
        let said = match &self.rocksdb {
            Some(options) => options.local_recovery,
            None => self.heap.as_ref().and_then(|options| options.local_recovery),
        };
        said.unwrap_or(defaults::LOCAL_RECOVERY)
    }
}

impl RocksDbOptions {
    pub fn profile(&self) -> RocksDbProfile {
        self.profile.unwrap_or(defaults::ROCKSDB_PROFILE)
    }

    pub fn memory(&self) -> ByteSize {
        self.memory.unwrap_or(defaults::ROCKSDB_MEMORY)
    }

    pub fn write_buffer_ratio(&self) -> f64 {
        self.write_buffer_ratio.unwrap_or(defaults::ROCKSDB_WRITE_BUFFER_RATIO)
    }

    pub fn high_priority_pool_ratio(&self) -> f64 {
        self.high_priority_pool_ratio.unwrap_or(defaults::ROCKSDB_HIGH_PRIORITY_POOL_RATIO)
    }
}

/// A restart strategy with every setting decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EffectiveRestart {
    ExponentialDelay {
        initial: Duration,
        max: Duration,
        multiplier: f64,
        jitter: f64,
        reset_after: Duration,
        /// `None`: no limit.
        max_attempts: Option<u32>,
        max_same_failures: u32,
    },
    FixedDelay {
        attempts: u32,
        delay: Duration,
    },
    FailureRate {
        max_failures: u32,
        interval: Duration,
        delay: Duration,
    },
    None,
}

impl RestartStrategy {
    /// The strategy named. `None` unless exactly one is.
    pub fn effective(&self) -> Option<EffectiveRestart> {
        let Self { exponential_delay, fixed_delay, failure_rate, none } = self;
        only(vec![
            exponential_delay.as_ref().map(ExponentialDelay::effective),
            fixed_delay.as_ref().map(FixedDelay::effective),
            failure_rate.as_ref().map(FailureRate::effective),
            none.map(|NoOptions {}| EffectiveRestart::None),
        ])
    }
}

impl ExponentialDelay {
    pub fn effective(&self) -> EffectiveRestart {
        EffectiveRestart::ExponentialDelay {
            initial: self.initial.unwrap_or(defaults::EXPONENTIAL_DELAY_INITIAL).get(),
            max: self.max.unwrap_or(defaults::EXPONENTIAL_DELAY_MAX).get(),
            multiplier: self.multiplier.unwrap_or(defaults::EXPONENTIAL_DELAY_MULTIPLIER),
            jitter: self.jitter.unwrap_or(defaults::EXPONENTIAL_DELAY_JITTER),
            reset_after: self.reset_after.unwrap_or(defaults::EXPONENTIAL_DELAY_RESET_AFTER).get(),
            max_attempts: self.max_attempts,
            max_same_failures: self.max_same_failures.unwrap_or(defaults::EXPONENTIAL_DELAY_MAX_SAME_FAILURES),
        }
    }
}

impl FixedDelay {
    pub fn effective(&self) -> EffectiveRestart {
        EffectiveRestart::FixedDelay {
            attempts: self.attempts.unwrap_or(defaults::FIXED_DELAY_ATTEMPTS),
            delay: self.delay.unwrap_or(defaults::FIXED_DELAY_DELAY).get(),
        }
    }
}

impl FailureRate {
    pub fn effective(&self) -> EffectiveRestart {
        EffectiveRestart::FailureRate {
            max_failures: self.max_failures.unwrap_or(defaults::FAILURE_RATE_MAX_FAILURES),
            interval: self.interval.unwrap_or(defaults::FAILURE_RATE_INTERVAL).get(),
            delay: self.delay.unwrap_or(defaults::FAILURE_RATE_DELAY).get(),
        }
    }
}

impl UpgradePolicy {
    pub fn mode(&self) -> UpgradeMode {
        self.mode.unwrap_or(defaults::UPGRADE_MODE)
    }

    pub fn approval(&self) -> ApprovalMode {
        self.approval.unwrap_or(defaults::UPGRADE_APPROVAL)
    }

    pub fn verify_checkpoints(&self) -> u32 {
        self.verify.as_ref().and_then(|verify| verify.checkpoints).unwrap_or(defaults::UPGRADE_VERIFY_CHECKPOINTS)
    }

    pub fn verify_deadline(&self) -> Duration {
        self.verify.as_ref().and_then(|verify| verify.deadline).unwrap_or(defaults::UPGRADE_VERIFY_DEADLINE).get()
    }

    pub fn on_failure(&self) -> OnUpgradeFailure {
        self.on_failure.unwrap_or(defaults::UPGRADE_ON_FAILURE)
    }

    pub fn allow_non_restored_state(&self) -> bool {
        self.allow_non_restored_state.unwrap_or(defaults::ALLOW_NON_RESTORED_STATE)
    }
}

impl SavepointPolicy {
    pub fn time_zone(&self) -> &str {
        self.time_zone.as_deref().unwrap_or(defaults::SAVEPOINT_TIME_ZONE)
    }

    pub fn retain_count(&self) -> u32 {
        self.retain.as_ref().and_then(|retain| retain.count).unwrap_or(defaults::SAVEPOINT_RETAIN_COUNT)
    }
}

impl FilesSource {
    pub fn follow(&self) -> bool {
        self.follow.unwrap_or(defaults::FILES_FOLLOW)
    }

    pub fn compression(&self) -> Compression {
        self.compression.unwrap_or(defaults::SOURCE_COMPRESSION)
    }

    pub fn poll_interval(&self) -> Duration {
        self.poll_interval.unwrap_or(defaults::FILES_POLL_INTERVAL).get()
    }

    pub fn split_size(&self) -> ByteSize {
        self.split_size.unwrap_or(defaults::FILES_SPLIT_SIZE)
    }
}

impl SocketSource {
    pub fn accept_at_most_once(&self) -> bool {
        self.accept_at_most_once.unwrap_or(false)
    }
}

impl KafkaSource {
    pub fn partition_discovery_interval(&self) -> Duration {
        self.partition_discovery_interval.unwrap_or(defaults::KAFKA_DISCOVERY_INTERVAL).get()
    }

    pub fn bounded(&self) -> bool {
        self.bounded.unwrap_or(false)
    }

    pub fn start_from(&self) -> StartFrom {
        self.start_from.unwrap_or(defaults::KAFKA_START_FROM)
    }
}

impl KinesisSource {
    pub fn start_from(&self) -> KinesisStartFrom {
        self.start_from.unwrap_or(defaults::KINESIS_START_FROM)
    }

    pub fn bounded(&self) -> bool {
        self.bounded.unwrap_or(false)
    }

    pub fn shard_discovery_interval(&self) -> Duration {
        self.shard_discovery_interval.unwrap_or(defaults::KINESIS_DISCOVERY_INTERVAL).get()
    }

    pub fn read_interval(&self) -> Duration {
        self.read_interval.unwrap_or(defaults::KINESIS_READ_INTERVAL).get()
    }

    pub fn records_per_read(&self) -> u32 {
        self.records_per_read.unwrap_or(defaults::KINESIS_RECORDS_PER_READ)
    }
}

impl KafkaSink {
    pub fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout.unwrap_or(defaults::KAFKA_TRANSACTION_TIMEOUT).get()
    }
}

impl PostgresSource {
    pub fn bounded(&self) -> bool {
        self.bounded.unwrap_or(false)
    }
}

impl PostgresSink {
    pub fn batch_rows(&self) -> u32 {
        self.batch_rows.unwrap_or(defaults::POSTGRES_SINK_BATCH_ROWS)
    }

    pub fn commit_by(&self) -> PostgresCommitBy {
        self.commit_by.unwrap_or(defaults::POSTGRES_COMMIT_BY)
    }
}

/// The separators of CSV text, as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvSeparators {
    pub delimiter: u8,
    pub quote: u8,
}

impl CsvSourceFormat {
    pub fn header(&self) -> bool {
        self.header.unwrap_or(defaults::CSV_HEADER)
    }

    pub fn separators(&self) -> CsvSeparators {
        csv_separators(self.delimiter.as_deref(), self.quote.as_deref())
    }

    pub fn null_value(&self) -> &str {
        self.null_value.as_deref().unwrap_or(defaults::CSV_NULL_VALUE)
    }
}

impl CsvSinkFormat {
    pub fn header(&self) -> bool {
        self.header.unwrap_or(defaults::CSV_HEADER)
    }

    pub fn separators(&self) -> CsvSeparators {
        csv_separators(self.delimiter.as_deref(), self.quote.as_deref())
    }

    pub fn null_value(&self) -> &str {
        self.null_value.as_deref().unwrap_or(defaults::CSV_NULL_VALUE)
    }
}

/// Validation refuses separators that are not one ASCII character each; here the first byte is taken.
fn csv_separators(delimiter: Option<&str>, quote: Option<&str>) -> CsvSeparators {
    let first_byte =
        |text: Option<&str>, default: char| text.and_then(|text| text.bytes().next()).unwrap_or(default as u8);
    CsvSeparators {
        delimiter: first_byte(delimiter, defaults::CSV_DELIMITER),
        quote: first_byte(quote, defaults::CSV_QUOTE),
    }
}

impl JsonSinkFormat {
    pub fn omit_nulls(&self) -> bool {
        self.omit_nulls.unwrap_or(false)
    }
}

impl ParquetSinkFormat {
    pub fn compression(&self) -> Compression {
        self.compression.unwrap_or(defaults::PARQUET_COMPRESSION)
    }

    pub fn row_group_rows(&self) -> u32 {
        self.row_group_rows.unwrap_or(defaults::PARQUET_ROW_GROUP_ROWS)
    }
}
