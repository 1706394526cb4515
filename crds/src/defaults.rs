//! Every default of a StreamJob, stated once. The schema takes them from here, and so does the runtime, through the
//! methods that give each effective value (`spec.checkpoint_interval()`).

use crate::{
    duration::HumanDuration,
    quantity::ByteSize,
    streamjob::{
        ApprovalMode, CheckpointMode, Compression, DeletionPolicy, Delivery, HttpMethod, IfBroken, IfMissing, JobState,
        KinesisStartFrom, OnBadRecord, OnUpgradeFailure, PostgresCommitBy, RocksDbProfile, RowOrder, StartFrom,
        UpgradeMode,
    },
};

/// Subtasks of each step.
pub const PARALLELISM: u32 = 1;
/// Key groups: the unit in which keyed state is redistributed, and the upper bound of the parallelism.
pub const MAX_PARALLELISM: u32 = 128;
/// The largest number of key groups there can be, as in Flink.
pub const MAX_PARALLELISM_LIMIT: u32 = 32_768;
pub const STATE: JobState = JobState::Running;

pub const CHECKPOINT_INTERVAL: HumanDuration = HumanDuration::from_secs(10);
/// No checkpoint may be asked for more often than this.
pub const CHECKPOINT_INTERVAL_MIN: HumanDuration = HumanDuration::from_millis(10);
pub const CHECKPOINT_MODE: CheckpointMode = CheckpointMode::ExactlyOnce;
pub const CHECKPOINT_MIN_PAUSE: HumanDuration = HumanDuration::ZERO;
pub const CHECKPOINT_TIMEOUT: HumanDuration = HumanDuration::from_mins(10);
pub const CHECKPOINT_MAX_CONCURRENT: u32 = 1;
pub const CHECKPOINT_TOLERABLE_FAILURES: u32 = 0;
pub const CHECKPOINT_RETAIN_COUNT: u32 = 3;
pub const CHECKPOINT_ON_DELETE: DeletionPolicy = DeletionPolicy::Retain;
pub const UNALIGNED_ENABLED: bool = false;
/// With unaligned checkpoints enabled: how long a checkpoint may stay aligned, from its trigger on.
pub const UNALIGNED_ALIGNED_TIMEOUT: HumanDuration = HumanDuration::ZERO;

pub const ROCKSDB_PROFILE: RocksDbProfile = RocksDbProfile::Default;
/// The bound of what all RocksDB instances of a worker use together: block cache, write buffers, indexes, filters.
pub const ROCKSDB_MEMORY: ByteSize = ByteSize::from_mib(256);
/// The part of that memory for write buffers.
pub const ROCKSDB_WRITE_BUFFER_RATIO: f64 = 0.5;
/// The part of the block cache kept for indexes and filters.
pub const ROCKSDB_HIGH_PRIORITY_POOL_RATIO: f64 = 0.1;
pub const LOCAL_RECOVERY: bool = false;

/// Flink waits a second from the first failure on. A worker that is lost is the usual one, and needs no pause; one that
/// fails again and again comes to a second with the fifth.
pub const EXPONENTIAL_DELAY_INITIAL: HumanDuration = HumanDuration::from_millis(100);
pub const EXPONENTIAL_DELAY_MAX: HumanDuration = HumanDuration::from_mins(1);
pub const EXPONENTIAL_DELAY_MULTIPLIER: f64 = 2.0;
pub const EXPONENTIAL_DELAY_JITTER: f64 = 0.1;
pub const EXPONENTIAL_DELAY_RESET_AFTER: HumanDuration = HumanDuration::from_hours(1);
/// With the other defaults: about a minute after it first failed.
pub const EXPONENTIAL_DELAY_MAX_SAME_FAILURES: u32 = 10;
pub const FIXED_DELAY_ATTEMPTS: u32 = 1;
pub const FIXED_DELAY_DELAY: HumanDuration = HumanDuration::from_secs(1);
pub const FAILURE_RATE_MAX_FAILURES: u32 = 1;
pub const FAILURE_RATE_INTERVAL: HumanDuration = HumanDuration::from_mins(1);
pub const FAILURE_RATE_DELAY: HumanDuration = HumanDuration::from_secs(1);

pub const UPGRADE_MODE: UpgradeMode = UpgradeMode::Savepoint;
pub const UPGRADE_APPROVAL: ApprovalMode = ApprovalMode::Automatic;
pub const UPGRADE_VERIFY_CHECKPOINTS: u32 = 1;
pub const UPGRADE_VERIFY_DEADLINE: HumanDuration = HumanDuration::from_mins(10);
pub const UPGRADE_ON_FAILURE: OnUpgradeFailure = OnUpgradeFailure::Rollback;
pub const ALLOW_NON_RESTORED_STATE: bool = false;

pub const SAVEPOINT_TIME_ZONE: &str = "UTC";
pub const SAVEPOINT_RETAIN_COUNT: u32 = 7;
pub const RESTORE_IF_MISSING: IfMissing = IfMissing::Fail;
pub const RESTORE_IF_BROKEN: IfBroken = IfBroken::Fail;

/// Subtasks a worker pod runs of each step.
pub const WORKER_SLOTS: u32 = 1;

pub const ON_BAD_RECORD: OnBadRecord = OnBadRecord::Fail;
pub const DELIVERY: Delivery = Delivery::AtLeastOnce;
pub const WATERMARK_MAX_OUT_OF_ORDERNESS: HumanDuration = HumanDuration::ZERO;
pub const ALLOWED_LATENESS: HumanDuration = HumanDuration::ZERO;

pub const CSV_DELIMITER: char = ',';
pub const CSV_QUOTE: char = '"';
pub const CSV_HEADER: bool = true;
pub const CSV_NULL_VALUE: &str = "";
pub const PARQUET_ROW_GROUP_ROWS: u32 = 122_880;
pub const PARQUET_COMPRESSION: Compression = Compression::Zstd;

/// Whether a files source goes on watching its path once it has read what is there.
pub const FILES_FOLLOW: bool = false;
pub const FILES_POLL_INTERVAL: HumanDuration = HumanDuration::from_secs(1);
pub const FILES_SPLIT_SIZE: ByteSize = ByteSize::from_mib(64);
/// Of a source: tell it from the file's name. Of a sink: none.
pub const SOURCE_COMPRESSION: Compression = Compression::Auto;
pub const SINK_COMPRESSION: Compression = Compression::None;
pub const ROLLING_MAX_SIZE: ByteSize = ByteSize::from_mib(128);
pub const ROLLING_MAX_AGE: HumanDuration = HumanDuration::from_mins(15);

pub const GENERATOR_SEED: u64 = 0;
pub const GENERATOR_SEQUENCE_START: i64 = 0;
pub const GENERATOR_SEQUENCE_STEP: i64 = 1;
pub const GENERATOR_ORDER: RowOrder = RowOrder::Sequential;
pub const GENERATOR_TIME_START: &str = "2026-01-01T00:00:00Z";
pub const GENERATOR_TIME_STEP: HumanDuration = HumanDuration::from_millis(1);
pub const GENERATOR_RANDOM_LENGTH: u32 = 8;
pub const NEXMARK_START: &str = "2026-01-01T00:00:00Z";
/// The event time between two events where no rate is given: 10,000 events a second, as the published generator.
pub const NEXMARK_EVENT_INTERVAL: HumanDuration = HumanDuration::from_micros(100);

pub const HTTP_METHOD: HttpMethod = HttpMethod::Post;
pub const HTTP_BATCH_ROWS: u32 = 100;
/// Of one try of a request.
pub const HTTP_TIMEOUT: HumanDuration = HumanDuration::from_secs(30);
/// With the pauses between them, about ten seconds.
pub const HTTP_MAX_RETRIES: u32 = 6;
pub const HTTP_IDEMPOTENCY_HEADER: &str = "Idempotency-Key";

pub const KAFKA_START_FROM: StartFrom = StartFrom::CommittedOffsets;
pub const KINESIS_START_FROM: KinesisStartFrom = KinesisStartFrom::Latest;
pub const KINESIS_DISCOVERY_INTERVAL: HumanDuration = HumanDuration::from_secs(2);
pub const KINESIS_READ_INTERVAL: HumanDuration = HumanDuration::from_millis(200);
pub const KINESIS_RECORDS_PER_READ: u32 = 10_000;
pub const KAFKA_DISCOVERY_INTERVAL: HumanDuration = HumanDuration::from_mins(1);
/// Longer than the default interval and timeout of checkpoints together, and what brokers allow by default.
pub const KAFKA_TRANSACTION_TIMEOUT: HumanDuration = HumanDuration::from_mins(15);
pub const POSTGRES_SINK_BATCH_ROWS: u32 = 1_000;
pub const ICEBERG_TARGET_FILE_SIZE: ByteSize = ByteSize::from_mib(128);
pub const ICEBERG_MAX_OPEN_FILES: u32 = 64;
pub const POSTGRES_COMMIT_BY: PostgresCommitBy = PostgresCommitBy::StagingTables;
