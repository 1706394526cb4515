use super::*;
use crate::task::CHANNEL_BYTES;

const ROW_BYTES: usize = 16;

/// A reader, and what its channels get.
struct Case {
    channels: usize,
    /// What it costs to take a batch, and a row.
    batch: Duration,
    row: Duration,
    /// Rows of the batches that wait: as large as that, whatever fits.
    rows: usize,
}

/// Where a reader has come to.
#[derive(Debug)]
struct Settled {
    rows_per_second: f64,
    largest_take: Duration,
    /// To work off full channels.
    waiting: Duration,
}

impl Case {
    /// Long enough for everything to settle, with channels that are full at every time.
    fn settled(&self) -> Settled {
        let (mut pace, mut room) = (Pace::of_reader(), Room::new(self.channels, CHANNEL_BYTES));
        let mut limit = first_room(self.channels);
        let (mut rows_of_rest, mut took_rest, mut largest_take) = (0, Duration::ZERO, Duration::ZERO);
        for batch in 0..2_000 {
            let rows = self.take(&pace, limit);
            let took = self.batch + self.row * rows as u32;
            pace.worked(rows * ROW_BYTES, at_work(took));
            limit = room.worked(&pace).unwrap_or(limit);
            if batch >= 1_500 {
                (rows_of_rest, took_rest) = (rows_of_rest + rows, took_rest + took);
                largest_take = largest_take.max(took);
            }
        }
        let rows_per_second = rows_of_rest as f64 / took_rest.as_secs_f64();
        let waiting = (limit * self.channels / ROW_BYTES) as f64 / rows_per_second;
        Settled { rows_per_second, largest_take, waiting: Duration::from_secs_f64(waiting) }
    }

    /// Rows of one turn, as the gate gives them.
    fn take(&self, pace: &Pace, limit: usize) -> usize {
        let (at_most, at_least) = (pace.at_most() / ROW_BYTES, pace.at_least() / ROW_BYTES);
        if self.rows > at_most + at_most / 2 {
            return at_most.max(1);
        }
        let full = (limit / ROW_BYTES).max(self.rows);
        let mut rows = self.rows;
        while rows < at_least && rows + self.rows <= at_most.min(full) {
            rows += self.rows;
        }
        rows
    }
}

fn at_work(work: Duration) -> Worked {
    Worked { work, ..Worked::default() }
}

const NS: Duration = Duration::from_nanos(1);
const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);

#[test]
fn a_quick_reader_gets_all_that_there_is() {
    for (channels, rows) in [(1, 8192), (2, 4096), (8, 1024)] {
        let case = Case { channels, batch: 5 * US, row: 20 * NS, rows };
        let (mut pace, mut room) = (Pace::of_reader(), Room::new(channels, CHANNEL_BYTES));
        let mut limit = first_room(channels);
        let mut batches = 0;
        while limit < CHANNEL_BYTES * 7 / 8 {
            let rows = case.take(&pace, limit);
            pace.worked(rows * ROW_BYTES, at_work(case.batch + case.row * rows as u32));
            limit = room.worked(&pace).unwrap_or(limit);
            batches += 1;
            assert!(batches < 100, "{channels} channels: {limit} bytes");
        }
        assert_eq!((case.take(&pace, limit), pace.at_least()), (rows, 0), "neither in slices nor together");
    }
}

#[test]
fn what_waits_for_a_slow_reader_is_worked_off_soon() {
    for channels in [1, 2, 4, 16] {
        for row in [10 * US, 100 * US, 400 * US] {
            for rows in [8192, 200, 20] {
                let case = Case { channels, batch: 30 * US, row, rows };
                let Settled { rows_per_second, largest_take, waiting } = case.settled();
                let context = format!("{channels} channels, {row:?} for each row, {rows} rows in a batch");
                assert!(rows_per_second > 0.85 / row.as_secs_f64(), "{rows_per_second} rows/s: {context}");
                assert!(largest_take <= 2 * AT_WORK, "{largest_take:?}: {context}");
                // What is less than a few rows can't be less still.
                let least = row * (channels * LEAST_BYTES / ROW_BYTES) as u32;
                assert!(waiting <= WAITING.max(least) * 5 / 4, "{waiting:?}: {context}");
            }
        }
    }
}

#[test]
fn a_reader_with_work_for_each_batch_takes_much_at_a_time() {
    for (channels, batch, row, at_least) in
        [(1, 30 * MS, US, 400_000.0), (2, 30 * MS, 20 * US, 30_000.0), (4, 500 * MS, NS, 80_000.0)]
    {
        for rows in [4096, 100] {
            let settled = Case { channels, batch, row, rows }.settled();
            let context = format!("{batch:?} a batch and {row:?} a row, {rows} rows in a batch");
            assert!(settled.rows_per_second >= at_least, "{settled:?}: {context}");
        }
    }
}

/// Sends batches to readers that let in so many rows at a time; returns the size that comes of it.
fn source_rows(pace: &mut Pace, work: Duration, room_rows: usize) -> usize {
    for _ in 0..500 {
        let rows = pace.at_most();
        // However long it waits: the readers are shared, and the machine is busy.
        let waited = Duration::from_millis(rows as u64 % 97);
        pace.worked(rows, Worked { work, waited, fullest: rows as f64 / room_rows as f64 });
    }
    // Not of a single batch, which may be a probe.
    pace.at_most as usize
}

#[test]
fn a_source_makes_batches_that_fit_into_the_channels_of_its_readers() {
    let mut pace = Pace::of_source();
    assert_eq!(pace.at_most(), FIRST_ROWS);
    assert_eq!(source_rows(&mut pace, 10 * US, 100_000), BATCH_ROWS);
    assert_eq!(source_rows(&mut pace, 10 * US, 1_000), 500);
    assert_eq!(source_rows(&mut pace, 10 * US, 100_000), BATCH_ROWS, "quick again");
    assert_eq!(source_rows(&mut pace, 10 * US, 1), LEAST_ROWS);
}

#[test]
fn a_source_with_a_slow_sink_in_its_own_chain_makes_small_batches_unless_each_costs_much() {
    let rows = |batch: Duration, row: Duration| {
        let mut pace = Pace::of_source();
        for _ in 0..500 {
            let rows = pace.at_most();
            pace.worked(rows, at_work(batch + row * rows as u32));
        }
        pace.at_most as usize
    };
    let small = rows(10 * US, 100 * US);
    assert!((190..=200).contains(&small), "{small} rows of 100 us each");
    assert_eq!(rows(30 * MS, US), BATCH_ROWS);
}

#[test]
fn it_is_known_soon_that_a_reader_has_become_slow() {
    let (mut pace, mut room) = (Pace::of_reader(), Room::new(2, CHANNEL_BYTES));
    let mut limit = first_room(2);
    let mut until = |row: Duration, end: &dyn Fn(usize, Duration) -> bool| {
        let mut elapsed = Duration::ZERO;
        while !end(limit, elapsed) {
            let rows = Case { channels: 2, batch: 5 * US, row, rows: 4096 }.take(&pace, limit);
            let took = row * rows as u32;
            pace.worked(rows * ROW_BYTES, at_work(took));
            limit = room.worked(&pace).unwrap_or(limit);
            elapsed += took;
            assert!(elapsed < 10_000 * MS, "{limit} bytes after {elapsed:?}");
        }
        elapsed
    };
    until(40 * NS, &|_, elapsed| elapsed > 1_000 * MS);
    let slow = until(100 * US, &|limit, _| limit / ROW_BYTES < 600);
    assert!(slow < 3_000 * MS, "{slow:?}");
    let quick = until(40 * NS, &|limit, _| limit > CHANNEL_BYTES * 7 / 8);
    assert!(quick < 1_000 * MS, "{quick:?}");
}
