//! Whose turn it is to be looked at. Pure: time comes in, keys come out.
//!
//! A change, of which somebody waits to see what comes, goes before what is looked at because some time is over; and
//! each of the two leaves some slots to the other, so that neither waits until all of the other is done.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// Why a look is due. The greater one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Some time is over, or it was there before the operator was.
    Routine,
    /// Something changed, or a step of what was begun is next.
    Change,
}

const IN_ORDER: [Urgency; 2] = [Urgency::Change, Urgency::Routine];
/// Each kind of look leaves one of so many slots to the other.
const LEFT_TO_THE_OTHER: usize = 4;

/// A look that begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<K> {
    pub key: K,
    pub urgency: Urgency,
    /// Since when it was due.
    pub due: Instant,
}

/// Each key waits in it at most once, and is looked at by one at a time.
#[derive(Debug)]
pub struct Queue<K> {
    slots: usize,
    waiting: HashMap<K, (Urgency, Place)>,
    routine: BTreeMap<Place, K>,
    changes: BTreeMap<Place, K>,
    running: HashMap<K, Running>,
    asked: u64,
}

/// When it is due, and when it was asked for: of several that are due then, who came first goes first.
type Place = (Instant, u64);

#[derive(Debug)]
struct Running {
    urgency: Urgency,
    /// Asked for meanwhile: what the look saw may be older.
    again: Option<(Urgency, Instant)>,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// With so many looks at the same time.
    pub fn new(slots: usize) -> Self {
        Queue {
            slots: slots.max(1),
            waiting: HashMap::new(),
            routine: BTreeMap::new(),
            changes: BTreeMap::new(),
            running: HashMap::new(),
            asked: 0,
        }
    }

    /// Asks for a look. Of two for the same key the earlier time and the greater urgency count.
    pub fn ask(&mut self, key: K, urgency: Urgency, due: Instant) {
        let both = |(other, at): (Urgency, Instant)| (urgency.max(other), due.min(at));
        if let Some(running) = self.running.get_mut(&key) {
            running.again = Some(running.again.map_or((urgency, due), both));
            return;
        }
        self.asked += 1;
        let (mut is, mut place) = (urgency, (due, self.asked));
        if let Some((before, (at, number))) = self.waiting.remove(&key) {
            self.line(before).remove(&(at, number));
            (is, place.0) = both((before, at));
            // It keeps its place where nothing has become more urgent.
            place.1 = if (is, place.0) == (before, at) { number } else { self.asked };
        }
        self.line(is).insert(place, key.clone());
        self.waiting.insert(key, (is, place));
    }

    /// The next look that is due and has a slot. Its key is taken until the look is [`done`](Self::done).
    pub fn next(&mut self, now: Instant) -> Option<Turn<K>> {
        let (urgency, place) = self.firsts().find(|(_, (due, _))| *due <= now)?;
        let key = self.line(urgency).remove(&place)?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), Running { urgency, again: None });
        Some(Turn { key, urgency, due: place.0 })
    }

    /// When [`next`](Self::next) has one, if nothing else happens until then. `None`: not before something happens.
    pub fn next_due(&self) -> Option<Instant> {
        self.firsts().map(|(_, (due, _))| due).min()
    }

    /// The look is over. What was asked for meanwhile waits from here on.
    pub fn done(&mut self, key: &K) {
        if let Some((urgency, due)) = self.running.remove(key).and_then(|running| running.again) {
            self.ask(key.clone(), urgency, due);
        }
    }

    /// Of each kind that has a slot.
    fn firsts(&self) -> impl Iterator<Item = (Urgency, Place)> {
        let with_slot = IN_ORDER.into_iter().filter(|urgency| self.has_slot(*urgency));
        with_slot.filter_map(|urgency| {
            let line = if urgency == Urgency::Change { &self.changes } else { &self.routine };
            line.first_key_value().map(|(place, _)| (urgency, *place))
        })
    }

    fn has_slot(&self, urgency: Urgency) -> bool {
        // A single one is everybody's.
        let left = if self.slots == 1 { 0 } else { self.slots.div_ceil(LEFT_TO_THE_OTHER) };
        let of_its_kind = self.running.values().filter(|running| running.urgency == urgency).count();
        self.running.len() < self.slots && of_its_kind < self.slots - left
    }

    fn line(&mut self, urgency: Urgency) -> &mut BTreeMap<Place, K> {
        match urgency {
            Urgency::Change => &mut self.changes,
            Urgency::Routine => &mut self.routine,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Urgency::{Change, Routine};
    use super::*;

    /// Who begins until nobody can, in one line.
    fn begin(queue: &mut Queue<String>, now: Instant) -> String {
        let turns = std::iter::from_fn(|| queue.next(now));
        let keys: Vec<String> = turns.map(|turn| turn.key).collect();
        keys.join(" ")
    }

    fn ask(queue: &mut Queue<String>, keys: &str, urgency: Urgency, due: Instant) {
        keys.split(' ').for_each(|key| queue.ask(key.to_owned(), urgency, due));
    }

    fn done(queue: &mut Queue<String>, keys: &str) {
        keys.split(' ').for_each(|key| queue.done(&key.to_owned()));
    }

    #[test]
    fn a_change_goes_before_what_is_due_by_the_clock() {
        let (mut queue, start) = (Queue::new(4), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        ask(&mut queue, "a b c d e f", Routine, start);
        assert_eq!(begin(&mut queue, start), "a b c", "one slot is left to changes");
        ask(&mut queue, "v w", Change, start);
        assert_eq!(begin(&mut queue, start), "v");
        done(&mut queue, "a b");
        assert_eq!(begin(&mut queue, start), "w d");
        done(&mut queue, "c d v w");
        ask(&mut queue, "w x y z", Change, later(1));
        assert_eq!(begin(&mut queue, start), "e f");
        assert_eq!(queue.next_due(), Some(later(1)));
        assert_eq!(begin(&mut queue, later(1)), "w x");
        done(&mut queue, "e f");
        assert_eq!(begin(&mut queue, later(1)), "y", "one slot is left to what is due by the clock");
        assert_eq!(queue.next_due(), None, "nobody can begin before one is done");
        ask(&mut queue, "a", Routine, later(1));
        assert_eq!(begin(&mut queue, later(1)), "a");
        done(&mut queue, "w");
        assert_eq!(begin(&mut queue, later(1)), "z");
    }

    #[test]
    fn a_key_waits_once_and_is_looked_at_by_one() {
        let (mut queue, start) = (Queue::new(8), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        ask(&mut queue, "a b", Routine, later(20));
        ask(&mut queue, "a", Routine, later(30));
        assert_eq!(queue.next_due(), Some(later(20)));
        ask(&mut queue, "b", Change, start);
        let turn = queue.next(start).unwrap();
        assert_eq!(turn, Turn { key: "b".to_owned(), urgency: Change, due: start });
        // While it is looked at it changes again, and the look wants to look later.
        ask(&mut queue, "b", Change, later(1));
        ask(&mut queue, "b", Routine, later(9));
        assert_eq!(begin(&mut queue, later(9)), "");
        done(&mut queue, "b");
        assert_eq!(begin(&mut queue, later(9)), "b");
        done(&mut queue, "b");
        assert_eq!((begin(&mut queue, later(19)), queue.next_due()), (String::new(), Some(later(20))));
        assert_eq!(begin(&mut queue, later(20)), "a");
        done(&mut queue, "a");
        assert_eq!((queue.next_due(), queue.waiting.len(), queue.running.len()), (None, 0, 0));
    }

    #[test]
    fn who_is_asked_for_again_and_again_loses_no_place() {
        let (mut queue, start) = (Queue::new(1), Instant::now());
        ask(&mut queue, "a b c", Change, start);
        ask(&mut queue, "a", Change, start + Duration::from_secs(1));
        ask(&mut queue, "a", Routine, start);
        assert_eq!(begin(&mut queue, start), "a");
        ask(&mut queue, "d", Routine, start);
        done(&mut queue, "a");
        assert_eq!(begin(&mut queue, start), "b", "one slot is everybody's");
    }

    /// However many are due by the clock: a change never waits behind them, and they all have their turn.
    #[test]
    fn nobody_starves() {
        let (mut queue, start) = (Queue::new(8), Instant::now());
        let mut looks: HashMap<usize, u32> = HashMap::new();
        (0..1_000).for_each(|key| queue.ask(key, Routine, start));
        for round in 0..500_usize {
            let now = start + Duration::from_millis(round as u64);
            let changed = [round % 1_000, (round * 7) % 1_000];
            changed.iter().for_each(|key| queue.ask(*key, Change, now));
            let turns: Vec<_> = std::iter::from_fn(|| queue.next(now)).collect();
            assert!(changed.iter().all(|key| turns.iter().any(|turn| turn.key == *key)), "round {round}: {turns:?}");
            for turn in turns {
                *looks.entry(turn.key).or_default() += 1;
                queue.done(&turn.key);
                queue.ask(turn.key, Routine, now + Duration::from_millis(200));
            }
        }
        assert_eq!(looks.len(), 1_000);
    }
}
