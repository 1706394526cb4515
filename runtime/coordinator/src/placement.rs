//! Which worker runs which subtask.
//!
//! As in Flink, a slot takes one subtask of every task: subtask i of each goes to slot i, so that what needs no
//! exchange stays within one worker. A subtask goes where most of its state lies on local disk; else neighbours share
//! a worker.

use std::cmp::Reverse;
use std::collections::BTreeSet;
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
    /// `held_bytes`: of the state that a slot's subtasks start from, what the worker has at hand.
    pub fn of(
        workers: &[(WorkerId, u32)],
        need: u32,
        held_bytes: impl Fn(WorkerId, u32) -> u64,
    ) -> Result<Self, Shortage> {
        let have = workers.iter().map(|(_, slots)| *slots).fold(0, u32::saturating_add);
        if have < need {
            return Err(Shortage { have, need });
        }
        // What does not divide evenly goes to who has most: all that it has can stay then.
        let of_worker = |worker| (0..need).fold(0, |sum: u64, slot| sum.saturating_add(held_bytes(worker, slot)));
        let mut workers: Vec<_> = workers.iter().map(|(worker, slots)| (of_worker(*worker), *worker, *slots)).collect();
        workers.sort_by_key(|(held, worker, _)| (Reverse(*held), *worker));
        let mut shares: Vec<u32> = vec![0; workers.len()];
        let mut left = need;
        while left > 0 {
            for ((_, _, slots), share) in workers.iter().zip(&mut shares) {
                if left > 0 && *share < *slots {
                    *share += 1;
                    left -= 1;
                }
            }
        }
        let mut offers = vec![];
        for (index, (held, worker, _)) in workers.iter().enumerate() {
            if *held > 0 {
                let of_slots = (0..need).map(|slot| (Reverse(held_bytes(*worker, slot)), slot, index));
                offers.extend(of_slots.filter(|(Reverse(bytes), ..)| *bytes > 0));
            }
        }
        offers.sort_unstable();
        let mut slots: Vec<Option<usize>> = vec![None; need as usize];
        for (_, slot, index) in offers {
            if shares[index] > 0 && slots[slot as usize].is_none() {
                slots[slot as usize] = Some(index);
                shares[index] -= 1;
            }
        }
        // The rest in the order of the workers, so that neighbours share one.
        let mut by_id: Vec<usize> = (0..workers.len()).collect();
        by_id.sort_by_key(|index| workers[*index].1);
        let mut rest = by_id.into_iter().flat_map(|index| vec![index; shares[index] as usize]);
        let slots = slots.into_iter().map(|slot| slot.or_else(|| rest.next()).map(|index| workers[index].1));
        Ok(Placement { slots: slots.map(|slot| slot.expect("the shares are as many as the slots")).collect() })
    }

    /// Where an attempt runs already.
    pub(crate) fn at(slots: Vec<WorkerId>) -> Self {
        Placement { slots }
    }

    /// # Panics
    /// If the subtask is above the slots that the placement was made for.
    pub fn worker(&self, subtask: u32) -> WorkerId {
        self.slots[subtask as usize]
    }

    /// The workers that run something, each once.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.slots.iter().copied().collect::<BTreeSet<_>>().into_iter()
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
        placed(&workers, need, |_, _| 0)
    }

    fn placed(
        workers: &[(WorkerId, u32)],
        need: u32,
        held_bytes: impl Fn(WorkerId, u32) -> u64,
    ) -> Result<Vec<u32>, Shortage> {
        let placement = Placement::of(workers, need, held_bytes)?;
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

    /// `held`: the slots of which each worker has the state, with its bytes.
    fn near(slots: &[u32], need: u32, held: &[&[(u32, u64)]]) -> Vec<u32> {
        let workers: Vec<_> = slots.iter().zip(0..).map(|(slots, id)| (WorkerId(id), *slots)).collect();
        let held_bytes = |worker: WorkerId, slot| {
            let held = held.get(worker.0 as usize).into_iter().flat_map(|held| held.iter());
            held.filter(|(of, _)| *of == slot).map(|(_, bytes)| bytes).sum()
        };
        placed(&workers, need, held_bytes).expect("slots enough")
    }

    #[test]
    fn subtasks_go_where_their_state_is() {
        // A worker came back under a higher number: it gets what it had.
        assert_eq!(near(&[2, 2], 4, &[&[(2, 9), (3, 9)], &[(0, 9), (1, 9)]]), [1, 1, 0, 0]);
        // And with it as many as it had.
        assert_eq!(near(&[4, 4, 4], 4, &[&[(2, 5)], &[(3, 5)], &[(0, 5), (1, 5)]]), [2, 2, 0, 1]);
        // One of three is new: it takes what nobody has.
        assert_eq!(near(&[2, 2, 2], 3, &[&[(0, 5)], &[(2, 5)], &[]]), [0, 2, 1]);
        // Most of the state decides where several have some; the spread stays even.
        assert_eq!(near(&[2, 2], 2, &[&[(0, 5), (1, 5)], &[(0, 6)]]), [1, 0]);
        assert_eq!(near(&[4, 4], 4, &[&[(0, 1), (1, 2), (2, 3), (3, 4)], &[]]), [1, 1, 0, 0]);
        // More than there are slots for.
        assert_eq!(near(&[1, 3], 4, &[&[(0, 1), (1, 9)], &[]]), [1, 0, 1, 1]);
    }
}
