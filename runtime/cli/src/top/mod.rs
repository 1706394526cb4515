//! The screen of `weir top`: what it shows of a job, at any size.

mod rows;

use crate::text;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};
use weir_api::view::{CheckpointView, CheckpointsView, JobPhase, JobView, SubtasksView};

/// Lines of the last checkpoints.
const CHECKPOINTS: u16 = 6;
/// A screen with fewer lines shows the steps alone.
const MIN_HEIGHT_FOR_CHECKPOINTS: u16 = 18;

/// One look at a job.
pub(crate) struct Snapshot {
    pub(crate) job: JobView,
    pub(crate) subtasks: SubtasksView,
    pub(crate) checkpoints: CheckpointsView,
}

pub(crate) struct Screen {
    latest: Snapshot,
    /// Why the job was not reached at the last look.
    failure: Option<String>,
    shows_subtasks: bool,
    /// Rows of the table above the first that is seen.
    skipped: usize,
}

impl Screen {
    pub(crate) fn new(first: Snapshot) -> Self {
        Screen { latest: first, failure: None, shows_subtasks: false, skipped: 0 }
    }

    pub(crate) fn take(&mut self, looked: Result<Snapshot, String>) {
        match looked {
            Ok(snapshot) => (self.latest, self.failure) = (snapshot, None),
            // What was seen last stays, with the reason above it.
            Err(reason) => self.failure = Some(reason),
        }
    }

    pub(crate) fn toggle_subtasks(&mut self) {
        self.shows_subtasks = !self.shows_subtasks;
        self.skipped = 0;
    }

    pub(crate) fn scroll(&mut self, rows: isize) {
        self.skipped = self.skipped.saturating_add_signed(rows);
    }

    pub(crate) fn draw(&mut self, frame: &mut Frame) {
        let header = self.header();
        let has_room = frame.area().height >= MIN_HEIGHT_FOR_CHECKPOINTS;
        let below = if has_room { CHECKPOINTS + 3 } else { 0 };
        let areas = Layout::vertical([
            Constraint::Length(header.len() as u16),
            Constraint::Min(3),
            Constraint::Length(below),
            Constraint::Length(1),
        ]);
        let [top, middle, bottom, keys] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(header), top);
        self.draw_steps(frame, middle);
        if has_room {
            frame.render_widget(checkpoints(&self.latest.checkpoints, bottom), bottom);
        }
        let subtasks = if self.shows_subtasks { "s steps" } else { "s subtasks" };
        let keys_line = format!("q quit   {subtasks}   ↑↓ scroll");
        frame.render_widget(Paragraph::new(keys_line).style(Style::new().fg(Color::DarkGray)), keys);
    }

    fn header(&self) -> Vec<Line<'static>> {
        let job = &self.latest.job;
        let uptime = job.uptime_ms.map(|ms| format!(" {}", text::long_duration(ms))).unwrap_or_default();
        let mut lines = vec![
            Line::from(vec![
                Span::styled(job.name.clone(), Style::new().add_modifier(Modifier::BOLD)),
                Span::raw("  "),
                Span::styled(format!("{:?}{uptime}", job.phase), phase_style(job.phase)),
            ]),
            Line::from(format!(
                "epoch {}, attempt {}   parallelism {}   workers {}   restarts {}",
                job.epoch,
                job.attempt,
                job.parallelism,
                job.workers.len(),
                job.restarts.count
            )),
        ];
        let warning = |text: String| Line::styled(text.replace('\n', " "), Style::new().fg(Color::Red));
        if let Some(failure) = &self.failure {
            lines.push(warning(failure.clone()));
        } else if let Some(waits_for) = &job.waits_for {
            lines.push(warning(format!("has {waits_for}")));
        } else if let Some(outcome) = &job.outcome {
            lines.push(Line::from(outcome.replace('\n', " ")));
        } else if let Some(reason) = job.restarts.reasons.first() {
            let ago_ms = job.running_since_ms.map(|since_ms| since_ms.saturating_sub(reason.last_at_ms));
            let back = ago_ms.map(|ms| format!(" (back after {})", text::duration(ms))).unwrap_or_default();
            lines.push(warning(format!("last restart{back}: {}", reason.reason)));
        }
        lines
    }

    fn draw_steps(&mut self, frame: &mut Frame, area: Rect) {
        let columns = rows::columns(area.width.saturating_sub(2));
        let all = rows::rows(&self.latest.subtasks, &columns, self.shows_subtasks);
        // Borders and the header take three lines.
        let seen = usize::from(area.height.saturating_sub(3));
        self.skipped = self.skipped.min(all.len().saturating_sub(seen));
        let title = if self.shows_subtasks { " subtasks " } else { " steps " };
        let header = Row::new(columns.iter().map(|column| column.title())).style(Style::new().fg(Color::DarkGray));
        let table = Table::new(all.into_iter().skip(self.skipped), columns.iter().map(|column| column.width()))
            .header(header)
            .column_spacing(rows::SPACING)
            .block(Block::new().borders(Borders::ALL).title(title));
        frame.render_widget(table, area);
    }
}

fn checkpoints(checkpoints: &CheckpointsView, area: Rect) -> Paragraph<'static> {
    let counts = &checkpoints.counts;
    let of = &checkpoints.percentiles;
    let mut lines = vec![Line::from(format!(
        "{} completed, {} failed   duration p50 {}, p99 {}   size p50 {}, p99 {}",
        counts.completed,
        counts.failed,
        text::duration(of.duration_ms.p50),
        text::duration(of.duration_ms.p99),
        text::bytes(of.new_bytes.p50),
        text::bytes(of.new_bytes.p99),
    ))];
    for under_way in &checkpoints.under_way {
        let held = under_way.held_up_by.iter().map(|held| format!("{}[{}] {:?}", held.task, held.subtask, held.why));
        let held = held.collect::<Vec<_>>().join(", ");
        let held = if held.is_empty() { held } else { format!(", held up by {held}") };
        let (turning, done) = (text::turning_unaligned(under_way), under_way.acknowledged);
        let line = format!("{}  {done} of {}{turning}{held}", under_way.id, under_way.subtasks);
        lines.push(Line::styled(line, Style::new().fg(Color::Yellow)));
    }
    lines.extend(checkpoints.history.iter().map(checkpoint_line));
    lines.truncate(usize::from(area.height.saturating_sub(2)));
    Paragraph::new(lines).block(Block::new().borders(Borders::ALL).title(" checkpoints "))
}

fn checkpoint_line(line: &CheckpointView) -> Line<'static> {
    match &line.failure {
        None => Line::from(format!(
            "{}  {:?} in {}, {} new of {}{}",
            line.id,
            line.kind,
            text::duration(line.duration_ms),
            text::bytes(line.new_bytes),
            text::bytes(line.full_bytes),
            text::unaligned(line.is_unaligned, line.in_flight_bytes)
        )),
        Some(reason) => {
            let text = format!("{}  {:?} failed: {}", line.id, line.kind, reason.replace('\n', " "));
            Line::styled(text, Style::new().fg(Color::Red))
        }
    }
}

fn phase_style(phase: JobPhase) -> Style {
    let color = match phase {
        JobPhase::Running | JobPhase::Finished => Color::Green,
        JobPhase::Failed | JobPhase::Restarting | JobPhase::Fenced => Color::Red,
        JobPhase::Deploying | JobPhase::Ending | JobPhase::Stopped | JobPhase::Cancelled => Color::Yellow,
    };
    Style::new().fg(color).add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn snapshot() -> Snapshot {
        let operator = |uid: &str| {
            json!({
                "uid": uid, "recordsIn": 1_234_567, "recordsOut": 7, "recordsInPerSecond": 52_000.0,
                "recordsOutPerSecond": 3.0, "lateRecords": 0, "badRecords": 2, "watermarkUs": 1_700_000_000_000_000i64,
            })
        };
        let subtask = |index: u32| {
            json!({
                "index": index, "worker": 1, "time": {"busy": 0.5, "idle": 0.2, "backpressured": 0.3},
                "bytesIn": 1 << 20, "bytesOut": 9, "operators": [operator("hourly/window-aggregate"), operator("out")],
            })
        };
        let zero = json!({"min": 0, "p50": 84, "p90": 84, "p99": 120, "max": 120});
        let job = json!({
            "name": "flight-delays", "uid": "u", "phase": "Running", "epoch": 3, "attempt": 2, "startedAtMs": 0,
            "runningSinceMs": 10, "uptimeMs": 725_000, "parallelism": 2, "maxParallelism": 128,
            "restarts": {"count": 1, "reasons": [{"reason": "a worker\nis gone", "count": 1, "lastAtMs": 5}]},
            "checkpoints": {"completed": 9, "failed": 1, "failedInARow": 0, "underWay": 1},
            "workers": [], "storage": "s3://b/c", "version": "0.1.0", "specHash": "0",
        });
        let checkpoints = json!({
            "counts": job["checkpoints"],
            "underWay": [{
                "id": 11, "kind": "Checkpoint", "triggeredAtMs": 0, "acknowledged": 1, "subtasks": 2,
                "isCompleting": false, "isUnaligned": true, "heldUpBy": [{"task": "hourly", "subtask": 1, "why": "Processing"}],
            }],
            "percentiles": {"durationMs": zero, "newBytes": zero, "fullBytes": zero},
            "history": [{
                "id": 10, "kind": "Checkpoint", "state": "Completed", "triggeredAtMs": 0, "durationMs": 84,
                "newBytes": 1024, "fullBytes": 2048,
            }],
        });
        let subtasks = json!({"tasks": [{"task": "hourly/window-aggregate", "subtasks": [subtask(0), subtask(1)]}]});
        Snapshot {
            job: serde_json::from_value(job).expect("a job"),
            subtasks: serde_json::from_value(subtasks).expect("subtasks"),
            checkpoints: serde_json::from_value(checkpoints).expect("checkpoints"),
        }
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        terminal.draw(|frame| screen.draw(frame)).expect("it draws");
        terminal.backend().to_string()
    }

    #[test]
    fn what_matters_is_seen_at_every_width() {
        let mut screen = Screen::new(snapshot());
        for width in [50, 80, 120, 200] {
            let seen = drawn(&mut screen, width, 24);
            for expected in [
                "flight-delays",
                "Running 12m 5s",
                "hourly",
                "104.0 k/s",
                "50%",
                "1 of 2, unaligned, held up by",
                "84 ms",
            ] {
                assert!(seen.contains(expected), "{expected} is missing at {width}:\n{seen}");
            }
        }
        let wide = drawn(&mut screen, 140, 24);
        for expected in ["WATERMARK", "2,469,134", "BACKPRESSURED", "4 bad"] {
            assert!(wide.contains(expected), "{expected} is missing:\n{wide}");
        }
    }

    #[test]
    fn no_size_is_too_small() {
        let mut screen = Screen::new(snapshot());
        for (width, height) in [(1, 1), (3, 5), (10, 2), (20, 8), (300, 3)] {
            drawn(&mut screen, width, height);
        }
    }

    #[test]
    fn subtasks_are_shown_when_asked_for_and_scrolled_within_bounds() {
        let mut screen = Screen::new(snapshot());
        screen.toggle_subtasks();
        screen.scroll(1000);
        screen.scroll(-3);
        let seen = drawn(&mut screen, 120, 24);
        assert!(seen.contains("[0]") && seen.contains("[1]"), "{seen}");
    }

    #[test]
    fn a_job_that_is_gone_is_said_and_its_last_figures_stay() {
        let mut screen = Screen::new(snapshot());
        screen.take(Err("nobody answers".to_owned()));
        let seen = drawn(&mut screen, 100, 24);
        assert!(seen.contains("nobody answers") && seen.contains("hourly"), "{seen}");
        screen.take(Ok(snapshot()));
        assert!(!drawn(&mut screen, 100, 24).contains("nobody answers"));
    }
}
