//! Windows one row at a time, with every row kept.

use crate::aggregate::tests::oracle::{Row, result, text};
use crate::aggregate::tests::rows::{KEY, TIME, counted};
use datafusion_common::ScalarValue;
use std::collections::{BTreeMap, BTreeSet};
use weir_model::graph::{AggregateCall, WindowKind};

pub(crate) struct Oracle {
    window: WindowKind,
    lateness: i64,
    calls: Vec<AggregateCall>,
    watermark: i64,
    /// Key, start, end -> rows.
    windows: BTreeMap<(String, i64, i64), Vec<Row>>,
    /// Windows that take no more rows.
    closed: BTreeSet<(String, i64, i64)>,
    pub(crate) dropped: u64,
}

pub(crate) fn time(row: &Row) -> i64 {
    match row[TIME] {
        ScalarValue::TimestampMicrosecond(Some(time), _) => time,
        _ => panic!("a row without time"),
    }
}

impl Oracle {
    pub(crate) fn new(window: WindowKind, lateness: i64, calls: Vec<AggregateCall>) -> Self {
        Oracle {
            window,
            lateness,
            calls,
            watermark: i64::MIN,
            windows: BTreeMap::new(),
            closed: BTreeSet::new(),
            dropped: 0,
        }
    }

    fn is_closed(&self, end: i64) -> bool {
        end + self.lateness <= self.watermark
    }

    pub(crate) fn add(&mut self, row: &Row) {
        let (key, time) = (text(&row[KEY..KEY + 1]), time(row));
        let (size, slide, offset) = match self.window {
            WindowKind::Tumble { size_us, offset_us } => (size_us, size_us, offset_us),
            WindowKind::Hop { size_us, slide_us, offset_us } => (size_us, slide_us, offset_us),
            WindowKind::Session { gap_us } => return self.add_to_session(key, time, gap_us, row),
        };
        let starts = (time - size + 1..=time).filter(|start| (start - offset).rem_euclid(slide) == 0);
        let open: Vec<i64> = starts.filter(|start| !self.is_closed(start + size)).collect();
        self.dropped += open.is_empty() as u64;
        for start in open {
            self.windows.entry((key.clone(), start, start + size)).or_default().push(row.clone());
        }
    }

    fn add_to_session(&mut self, key: String, time: i64, gap: i64, row: &Row) {
        let (mut start, mut end) = (time, time + gap);
        let mut met = vec![];
        // Sessions met are apart from each other, so growing doesn't meet more of them.
        for (of, from, to) in self.windows.keys().filter(|window| !self.closed.contains(window)) {
            if *of == key && *from <= time + gap && time <= *to {
                (start, end) = (start.min(*from), end.max(*to));
                met.push((of.clone(), *from, *to));
            }
        }
        if self.is_closed(end) {
            self.dropped += 1;
            return;
        }
        let mut rows = vec![];
        for window in met {
            rows.extend(self.windows.remove(&window).unwrap());
        }
        rows.push(row.clone());
        self.windows.insert((key, start, end), rows);
    }

    pub(crate) fn advance(&mut self, watermark: i64) {
        self.watermark = watermark;
        let closed: Vec<_> = self.windows.keys().filter(|window| self.is_closed(window.2)).cloned().collect();
        self.closed.extend(closed);
    }

    /// Key, start and end, and the results, of all windows that have fired.
    pub(crate) fn fired(&self) -> BTreeMap<String, String> {
        let fired = self.windows.iter().filter(|((_, _, end), _)| *end <= self.watermark);
        let line = |((key, start, end), rows): (&(String, i64, i64), &Vec<Row>)| {
            let results: Row = self.calls.iter().map(|call| result(call, &counted(call, rows.iter()))).collect();
            let times = [*start, *end].map(|time| ScalarValue::TimestampMicrosecond(Some(time), None));
            (format!("{key} {}", text(&times)), text(&results))
        };
        fired.map(line).collect()
    }
}
