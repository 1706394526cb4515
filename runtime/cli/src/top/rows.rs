//! The table of steps: as many columns as there is room for, the most telling first.

use crate::text;
use ratatui::layout::Constraint;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Row;
use weir_api::view::{OperatorFigures, SubtaskView, SubtasksView, TaskSubtasks, TimeShares};

pub(super) const SPACING: u16 = 2;
/// What the names get at least.
const NAME_WIDTH: u16 = 20;
/// Of a bar of shares.
const BAR_WIDTH: u16 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Name,
    In,
    Out,
    Rate,
    Time,
    Busy,
    Backpressured,
    Watermark,
    Notes,
}

/// By how much each tells; the first are kept where there is little room.
const BY_WEIGHT: [Column; 8] = [
    Column::Rate,
    Column::Busy,
    Column::Backpressured,
    Column::Watermark,
    Column::In,
    Column::Time,
    Column::Out,
    Column::Notes,
];

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Column::Name => "OPERATOR",
            Column::In => "IN",
            Column::Out => "OUT",
            Column::Rate => "RATE",
            Column::Time => "TIME",
            Column::Busy => "BUSY",
            Column::Backpressured => "BACKPRESSURED",
            Column::Watermark => "WATERMARK",
            Column::Notes => "",
        }
    }

    fn cells(self) -> u16 {
        match self {
            Column::Name => NAME_WIDTH,
            Column::In | Column::Out => 14,
            Column::Rate => 10,
            Column::Time => BAR_WIDTH,
            Column::Busy => 4,
            Column::Backpressured => 13,
            Column::Watermark => 19,
            Column::Notes => 16,
        }
    }

    pub(super) fn width(self) -> Constraint {
        match self {
            Column::Name => Constraint::Min(NAME_WIDTH),
            other => Constraint::Length(other.cells()),
        }
    }
}

/// In the order in which they stand.
pub(super) fn columns(width: u16) -> Vec<Column> {
    let mut chosen = vec![Column::Name];
    let mut left = width.saturating_sub(NAME_WIDTH);
    for column in BY_WEIGHT {
        let wanted = column.cells() + SPACING;
        if wanted <= left {
            left -= wanted;
            chosen.push(column);
        }
    }
    chosen.sort_unstable();
    chosen
}

pub(super) fn rows(subtasks: &SubtasksView, columns: &[Column], each_subtask: bool) -> Vec<Row<'static>> {
    let of_task = |task: &TaskSubtasks| {
        let mut rows = of_operators(task, columns);
        if each_subtask {
            rows.extend(task.subtasks.iter().map(|subtask| of_subtask(subtask, columns)));
        }
        rows
    };
    subtasks.tasks.iter().flat_map(of_task).collect()
}

/// A row for each operator of the chain, over all subtasks; the chain's time stands in the first.
fn of_operators(task: &TaskSubtasks, columns: &[Column]) -> Vec<Row<'static>> {
    let operators = task.subtasks.first().map_or(0, |subtask| subtask.operators.len());
    let of_operator = |index: usize| {
        let each: Vec<_> = task.subtasks.iter().filter_map(|subtask| subtask.operators.get(index)).collect();
        let name = each.first()?.uid.clone();
        let name = if index == 0 { format!("{name} ×{}", task.subtasks.len()) } else { format!("  {name}") };
        // The busiest subtask and the most backpressured tell more than a mean that hides them.
        let most = |share: fn(&TimeShares) -> f64| {
            let shares = task.subtasks.iter().map(|subtask| share(&subtask.time));
            (index == 0).then(|| shares.fold(0.0, f64::max))
        };
        let mean = (index == 0).then(|| mean(task.subtasks.iter().map(|subtask| subtask.time)));
        let shares = Shares { bar: mean, busy: most(|time| time.busy), backpressured: most(|time| time.backpressured) };
        Some(row(columns, name, &sum(&each), shares))
    };
    (0..operators).filter_map(of_operator).collect()
}

fn of_subtask(subtask: &SubtaskView, columns: &[Column]) -> Row<'static> {
    let worker = subtask.worker.map(|worker| format!(" on {worker}")).unwrap_or_default();
    let time = subtask.time;
    let shares = Shares { bar: Some(time), busy: Some(time.busy), backpressured: Some(time.backpressured) };
    let head: Vec<_> = subtask.operators.first().into_iter().collect();
    row(columns, format!("    [{}]{worker}", subtask.index), &sum(&head), shares)
        .style(Style::new().fg(Color::DarkGray))
}

struct Shares {
    bar: Option<TimeShares>,
    busy: Option<f64>,
    backpressured: Option<f64>,
}

fn row(columns: &[Column], name: String, figures: &OperatorFigures, shares: Shares) -> Row<'static> {
    let share = |share: Option<f64>| match share {
        None => Line::default(),
        Some(share) => Line::styled(text::percent(share), Style::new().fg(heat(share))),
    };
    let cell = |column: &Column| match column {
        Column::Name => Line::from(name.clone()),
        Column::In => Line::from(text::count(figures.records_in)),
        Column::Out => Line::from(text::count(figures.records_out)),
        Column::Rate => Line::from(text::rate(figures.records_in_per_second.max(figures.records_out_per_second))),
        Column::Time => shares.bar.map(bar).unwrap_or_default(),
        Column::Busy => share(shares.busy),
        Column::Backpressured => share(shares.backpressured),
        Column::Watermark => Line::from(match figures.watermark_us {
            Some(watermark_us) => text::event_time(watermark_us),
            None if figures.is_at_end => "end".to_owned(),
            None => String::new(),
        }),
        Column::Notes => Line::styled(notes(figures), Style::new().fg(Color::Yellow)),
    };
    Row::new(columns.iter().map(cell).collect::<Vec<_>>())
}

/// Over subtasks; the least watermark is what the operators behind see.
fn sum(each: &[&OperatorFigures]) -> OperatorFigures {
    let mut total = OperatorFigures::default();
    for one in each {
        total.records_in += one.records_in;
        total.records_out += one.records_out;
        total.records_in_per_second += one.records_in_per_second;
        total.records_out_per_second += one.records_out_per_second;
        total.late_records += one.late_records;
        total.bad_records += one.bad_records;
        total.pending_records =
            [total.pending_records, one.pending_records].into_iter().flatten().reduce(u64::saturating_add);
        total.pending_bytes =
            [total.pending_bytes, one.pending_bytes].into_iter().flatten().reduce(u64::saturating_add);
    }
    let running = each.iter().filter(|one| !one.is_at_end);
    total.watermark_us = running.map(|one| one.watermark_us).min().flatten();
    total.is_at_end = !each.is_empty() && each.iter().all(|one| one.is_at_end);
    total
}

fn mean(times: impl ExactSizeIterator<Item = TimeShares>) -> TimeShares {
    let count = times.len().max(1) as f64;
    let zero = TimeShares::default();
    times.fold(zero, |sum, one| TimeShares {
        busy: sum.busy + one.busy / count,
        idle: sum.idle + one.idle / count,
        backpressured: sum.backpressured + one.backpressured / count,
    })
}

/// Busy, backpressured and idle, in proportion.
fn bar(time: TimeShares) -> Line<'static> {
    let cells = |share: f64| (share * f64::from(BAR_WIDTH)).round() as usize;
    let width = usize::from(BAR_WIDTH);
    let busy = cells(time.busy).min(width);
    let backpressured = cells(time.backpressured).min(width - busy);
    Line::from(vec![
        Span::styled("█".repeat(busy), Style::new().fg(Color::Green)),
        Span::styled("▒".repeat(backpressured), Style::new().fg(Color::Red)),
        Span::styled("·".repeat(width - busy - backpressured), Style::new().fg(Color::DarkGray)),
    ])
}

fn heat(share: f64) -> Color {
    match share {
        share if share >= 0.8 => Color::Red,
        share if share >= 0.5 => Color::Yellow,
        _ => Color::Reset,
    }
}

fn notes(figures: &OperatorFigures) -> String {
    let late = (figures.late_records > 0).then(|| format!("{} late", text::count(figures.late_records)));
    let bad = (figures.bad_records > 0).then(|| format!("{} bad", text::count(figures.bad_records)));
    let pending = figures.pending_records.filter(|pending| *pending > 0);
    let pending = pending.map(|pending| format!("{} to read", text::count(pending)));
    [late, bad, pending].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
