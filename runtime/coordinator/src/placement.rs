//! Which worker runs which subtask.
//!
//! As in Flink, a slot takes one subtask of every task: subtask i of each goes to slot i, so that what needs no
//! exchange stays within one worker.

use std::fmt;
use weir_model::WorkerId;

/// The slots that an attempt uses, in the order of the subtasks that they take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    slots: Vec<WorkerId>,
}

/// What is missing for a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub have: u32,
    pub need: u32,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the job needs {} slots, and its workers have {}", self.need, self.have)
    }
}

impl Placement {
    /// Spreads `need` slots over the workers (each with the number of its slots) as evenly as their slots allow.
    /// Neighbouring subtasks share a worker.
    pub fn of(workers: &[(WorkerId, u32)], need: u32) -> Result<Self, Shortage> {
        let have = workers.iter().map(|(_, slots)| *slots).fold(0, u32::saturating_add);
        if have < need {
            return Err(Shortage { have, need });
        }
        let mut shares: Vec<u32> = vec![0; workers.len()];
        let mut left = need;
        while left > 0 {
            for ((_, slots), share) in workers.iter().zip(&mut shares) {
                if left > 0 && *share < *slots {
                    *share += 1;
                    left -= 1;
                }
            }
        }
        let slots = workers.iter().zip(shares).flat_map(|((worker, _), share)| vec![*worker; share as usize]);
        Ok(Placement { slots: slots.collect() })
    }

    /// # Panics
    /// If the subtask is above the slots that the placement was made for.
    pub fn worker(&self, subtask: u32) -> WorkerId {
        self.slots[subtask as usize]
    }

    /// The workers that run something, each once.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        // Each has its slots side by side.
        let mut last = None;
        self.slots.iter().copied().filter(move |worker| last.replace(*worker) != Some(*worker))
    }

    /// By subtask.
    pub fn slots(&self) -> &[WorkerId] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slots: &[u32], need: u32) -> Result<Vec<u32>, Shortage> {
        let workers: Vec<_> = slots.iter().zip(0..).map(|(slots, id)| (WorkerId(id), *slots)).collect();
        let placement = Placement::of(&workers, need)?;
        let all = placement.workers().collect::<Vec<_>>();
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len(), "each worker once");
        Ok(placement.slots.iter().map(|worker| worker.0).collect())
    }

    #[test]
    fn spreads_evenly_as_far_as_slots_allow() {
        assert_eq!(place(&[4, 4], 4), Ok(vec![0, 0, 1, 1]));
        assert_eq!(place(&[4, 4, 4], 4), Ok(vec![0, 0, 1, 2]));
        assert_eq!(place(&[1, 4], 4), Ok(vec![0, 1, 1, 1]));
        assert_eq!(place(&[2, 0, 2], 3), Ok(vec![0, 0, 2]));
        assert_eq!(place(&[8], 3), Ok(vec![0, 0, 0]));
        assert_eq!(place(&[1, 2], 4), Err(Shortage { have: 3, need: 4 }));
        assert_eq!(place(&[], 1), Err(Shortage { have: 0, need: 1 }));
    }
}
