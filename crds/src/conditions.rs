//! The conditions of a StreamJob, and how one is set so that its transition time stays true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The condition types in a StreamJob's status. Readers rely on all of them being there once a job was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The job does what its spec asks, and checkpoints complete within their limits.
    Ready,
    /// The operator is on its way to what the spec asks.
    Progressing,
    /// Something needs a person.
    Degraded,
    /// Checkpoints complete within interval, timeout and tolerable failures.
    CheckpointingHealthy,
    /// There is something to restore from.
    RestorePointAvailable,
    /// The job stands still because its spec says so.
    Suspended,
}

impl ConditionType {
    pub const ALL: [Self; 6] = [
        Self::Ready,
        Self::Progressing,
        Self::Degraded,
        Self::CheckpointingHealthy,
        Self::RestorePointAvailable,
        Self::Suspended,
    ];

    /// The name in `status.conditions[].type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::CheckpointingHealthy => "CheckpointingHealthy",
            Self::RestorePointAvailable => "RestorePointAvailable",
            Self::Suspended => "Suspended",
        }
    }
}

/// What an observer has to say about one condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    pub const fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One observation of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub condition: ConditionType,
    pub status: ConditionStatus,
    /// One word in CamelCase for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// `metadata.generation` of the spec that the observation is about.
    pub observed_generation: i64,
}

/// Writes `observation` into `conditions`. The transition time changes only where the status does, so that it says
/// how long the condition has stood.
pub fn set_condition(conditions: &mut Vec<Condition>, observation: Observation, now: Time) {
    let Observation { condition, status, reason, message, observed_generation } = observation;
    let mut new = Condition {
        type_: condition.name().to_owned(),
        status: status.name().to_owned(),
        reason,
        message,
        observed_generation: Some(observed_generation),
        last_transition_time: now,
    };
    match conditions.iter_mut().find(|standing| standing.type_ == new.type_) {
        Some(standing) => {
            if standing.status == new.status {
                new.last_transition_time = standing.last_transition_time.clone();
            }
            *standing = new;
        }
        None => conditions.push(new),
    }
}

/// The standing condition of a type.
pub fn find_condition(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|standing| standing.type_ == condition.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(status: ConditionStatus, generation: i64) -> Observation {
        Observation {
            condition: ConditionType::Ready,
            status,
            reason: "CheckpointsComplete".into(),
            message: String::new(),
            observed_generation: generation,
        }
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let at = |second: i64| serde_json::from_value::<Time>(format!("2026-11-21T10:00:{second:02}Z").into()).unwrap();
        let mut conditions = Vec::new();
        set_condition(&mut conditions, observed(ConditionStatus::True, 1), at(1));
        set_condition(&mut conditions, observed(ConditionStatus::True, 2), at(2));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert_eq!(conditions[0].observed_generation, Some(2));
        set_condition(&mut conditions, observed(ConditionStatus::False, 2), at(3));
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert_eq!(find_condition(&conditions, ConditionType::Ready).unwrap().status, "False");
    }
}
