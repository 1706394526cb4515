//! Raises an alert when flights from an airport leave late for several windows in a row, and clears it when it has
//! been quiet for a while.

use serde::Deserialize;
use std::time::Duration;
use weir_sdk::{
    Column, Context, Error, Inputs, KeyColumn, MapState, Operator, Output, Result, Row, RowSchema, Setup, Timer,
    Timers, Timestamp, ValueState, record,
};

/// Reads windows (`origin`, `window_start`, `window_end`, `delay`), keyed by `origin`; emits [`Alert`]s.
pub struct DelayAlerts {
    config: Config,
    window_start: Column<Timestamp>,
    window_end: Column<Timestamp>,
    delay: Column<Option<f64>>,
    airport: KeyColumn<String>,
    /// Windows that have come and whose turn has not, by their end.
    waiting: MapState<Timestamp, Window>,
    streak: ValueState<Streak>,
    /// It is a window's turn.
    turns: Timers,
    /// An alert has been quiet for long enough.
    quiet: Timers,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Minutes of average delay above which a window counts as late.
    pub threshold: f64,
    /// Late windows in a row that raise an alert.
    #[serde(default = "three")]
    pub windows: i64,
    /// Minutes without a late window after which the alert is cleared.
    #[serde(default = "two_hours")]
    pub clear_after_minutes: u64,
}

fn three() -> i64 {
    3
}

fn two_hours() -> u64 {
    120
}

record! {
    /// What the operator emits.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Alert {
        pub airport: String,
        /// `RAISED` or `CLEARED`.
        pub event: String,
        pub at: Timestamp,
        /// Start of the first late window.
        pub since: Timestamp,
        /// Late windows so far.
        pub windows: i64,
        /// The highest average delay among them, in minutes.
        pub worst: f64,
    }
}

record! {
    struct Window {
        start: Timestamp,
        delay: Option<f64>,
    }
}

record! {
    /// Late windows of one airport: in a row until the alert is raised, all of them from then on.
    struct Streak {
        since: Timestamp,
        until: Timestamp,
        windows: i64,
        worst: f64,
        is_raised: bool,
    }
}

impl Operator for DelayAlerts {
    type Config = Config;

    fn output_schema(config: &Config, _inputs: Inputs<'_>) -> Result<RowSchema> {
        if config.windows < 1 {
            return Err(Error::new(format!(
                "`windows` is {}; an alert takes one late window at least",
                config.windows
            )));
        }
        Ok(RowSchema::of::<Alert>().event_time("at"))
    }

    fn new(config: Config, setup: &mut Setup<'_>) -> Result<Self> {
        Ok(DelayAlerts {
            config,
            window_start: setup.column("window_start")?,
            window_end: setup.column("window_end")?,
            delay: setup.column("delay")?,
            airport: setup.key("origin")?,
            waiting: setup.map_state("waiting")?,
            streak: setup.value_state("streak")?,
            turns: setup.event_timers("turns")?,
            quiet: setup.event_timers("quiet")?,
        })
    }

    /// Lets the window wait for its turn: timers fire in the order of time, however far the watermark jumps, so that
    /// an alert between two windows is cleared between them, also when both have come at once.
    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, _out: &mut Output<'_>) -> Result<()> {
        let end = row.get(self.window_end)?;
        let window = Window { start: row.get(self.window_start)?, delay: row.get(self.delay)? };
        self.waiting.put(context, &end, &window)?;
        self.turns.register(context, end)
    }

    fn on_timer(&mut self, timer: Timer, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        if timer.is(self.quiet) {
            return self.clear(timer.time(), context, out);
        }
        match self.waiting.remove(context, &timer.time())? {
            Some(Window { start, delay: Some(delay) }) if delay > self.config.threshold => {
                self.late(start, timer.time(), delay, context, out)
            }
            // An hour in which nothing left says nothing about delays, and ends a streak as a punctual one does.
            _ => match self.streak.value(context)? {
                Some(streak) if !streak.is_raised => self.streak.clear(context),
                _ => Ok(()),
            },
        }
    }
}

impl DelayAlerts {
    fn late(
        &self,
        start: Timestamp,
        end: Timestamp,
        delay: f64,
        context: &mut Context<'_>,
        out: &mut Output<'_>,
    ) -> Result<()> {
        let mut streak = match self.streak.value(context)? {
            Some(streak) if streak.is_raised || streak.until == start => streak,
            _ => Streak { since: start, until: end, windows: 0, worst: delay, is_raised: false },
        };
        if streak.is_raised {
            self.quiet.delete(context, streak.until + self.clear_after())?;
        }
        streak.until = end;
        streak.windows += 1;
        streak.worst = streak.worst.max(delay);
        if !streak.is_raised && streak.windows >= self.config.windows {
            streak.is_raised = true;
            out.emit(self.alert("RAISED", end, &streak, context)?)?;
        }
        if streak.is_raised {
            self.quiet.register(context, end + self.clear_after())?;
        }
        self.streak.update(context, &streak)
    }

    fn clear(&self, at: Timestamp, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let Some(streak) = self.streak.value(context)? else { return Ok(()) };
        out.emit(self.alert("CLEARED", at, &streak, context)?)?;
        self.streak.clear(context)
    }

    fn alert(&self, event: &str, at: Timestamp, streak: &Streak, context: &Context<'_>) -> Result<Alert> {
        let airport = context.key(self.airport)?.to_owned();
        let Streak { since, until: _, windows, worst, is_raised: _ } = *streak;
        Ok(Alert { airport, event: event.to_owned(), at, since, windows, worst })
    }

    fn clear_after(&self) -> Duration {
        Duration::from_secs(self.config.clear_after_minutes.saturating_mul(60))
    }
}
