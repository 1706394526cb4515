//! Removes expired entries, a few at a time.

use super::{OrderedState, STAMP_BYTES, is_expired, stamp_of};
use std::ops::ControlFlow;

impl OrderedState {
    /// Sets the clock, and looks at up to `max_entries` entries for expired ones.
    pub(crate) fn sweep(&mut self, now_ms: u64, max_entries: usize) {
        self.now_ms = self.now_ms.max(now_ms);
        let Some(ttl_ms) = self.ttl_ms else { return };
        if self.cold.is_some() {
            // What is stored isn't read for the sake of it; expired entries read as absent.
            return;
        }
        let (mut at, from) = std::mem::take(&mut self.sweep_at);
        if at >= self.trees.len() {
            at = 0;
        }
        let (mut seen, mut expired, mut unstamped) = (0, vec![], vec![]);
        let mut last = None;
        self.trees[at].scan_from(&from, |place, value| {
            if seen == max_entries {
                last = Some(place.to_vec());
                return ControlFlow::Break(());
            }
            seen += 1;
            if stamp_of(value) == 0 {
                unstamped.push((place.to_vec(), value[STAMP_BYTES..].to_vec()));
            } else if is_expired(value, ttl_ms, self.now_ms) {
                expired.push(place.to_vec());
            }
            ControlFlow::Continue(())
        });
        let group = weir_model::KeyGroup(self.owned.first + at as u16);
        for place in expired {
            self.delete_place(group, &place).expect("an owned group");
        }
        for (place, value) in unstamped {
            self.put_place(group, &place, &value).expect("an owned group");
        }
        self.sweep_at = match last {
            Some(place) => (at, place),
            None => (at + 1, vec![]),
        };
    }
}
