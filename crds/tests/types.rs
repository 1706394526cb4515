//! The resource as users write it: it reads, and what is read says what was written.

use weir_crds::{StreamJob, streamjob::*};

const FLIGHT_DELAYS: &str = include_str!("jobs/flight-delays.yaml");

#[test]
fn the_full_example_reads_and_round_trips() {
    let job: StreamJob = serde_yaml::from_str(FLIGHT_DELAYS).unwrap();
    let text = serde_yaml::to_string(&job).unwrap();
    let again: StreamJob = serde_yaml::from_str(&text).unwrap();
    assert_eq!(job, again);

    let spec = &job.spec;
    assert_eq!((spec.parallelism(), spec.max_parallelism(), spec.state()), (4, 128, JobState::Running));
    let source = &spec.pipeline.sources[0];
    assert!(
        matches!(source.connector(), Some(SourceConnector::Kafka(kafka)) if kafka.start_from() == StartFrom::Earliest)
    );
    assert_eq!(source.format.as_ref().unwrap().bad_records(), BadRecords::Fail);
    assert_eq!(source.columns().len(), 4);
    let operator = spec.pipeline.transforms[1].operator.as_ref().unwrap();
    assert_eq!(operator.inputs(), ["hourly"]);
    assert_eq!(operator.config.as_ref().unwrap()["threshold"], 30);
    assert_eq!(spec.pipeline.sinks[1].delivery(), Delivery::Upsert);
    assert!(matches!(spec.restart(), EffectiveRestart::ExponentialDelay { multiplier: 1.5, .. }));
    assert_eq!(spec.restore_from(), RestoreOrigin::Latest);
    assert_eq!(spec.worker_slots(), 2);
}
