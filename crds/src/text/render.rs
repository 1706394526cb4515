//! Prints diagnostics as a compiler does.

use std::fmt::Write;

use super::{Diagnostic, Severity};

/// The longest piece of a line that is shown.
const MAX_SHOWN_COLUMNS: usize = 120;

/// The diagnostics as text: each with its line and a mark below the place, then how many there are.
pub fn render(diagnostics: &[Diagnostic], source_text: &str, filename: &str) -> String {
    let lines: Vec<&str> = source_text.lines().collect();
    let mut out = String::new();
    for diagnostic in diagnostics {
        render_one(&mut out, diagnostic, &lines, filename);
        out.push('\n');
    }
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let counts: Vec<String> = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if !counts.is_empty() {
        out.push_str(&format!("{filename}: {}\n", counts.join(", ")));
    }
    out
}

fn render_one(out: &mut String, diagnostic: &Diagnostic, lines: &[&str], filename: &str) {
    let Diagnostic { severity, position, length, field_path, reason, remedy } = diagnostic;
    let number = position.line.to_string();
    let margin = " ".repeat(number.len());
    // Writing into a String cannot fail.
    let _ = match field_path.is_empty() {
        true => writeln!(out, "{}: {reason}", severity.word()),
        false => writeln!(out, "{}: {field_path}: {reason}", severity.word()),
    };
    let _ = writeln!(out, "{margin}--> {filename}:{}:{}", position.line, position.column);
    if let Some(line) = lines.get(position.line - 1) {
        let (shown, offset) = window(line, position.column - 1);
        let mark_start = position.column - 1 - offset;
        let room = shown.chars().count().saturating_sub(mark_start).max(1);
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {}", shown.trim_end());
        let _ = writeln!(out, "{margin} | {}{}", " ".repeat(mark_start), "^".repeat((*length).clamp(1, room)));
    }
    let _ = writeln!(out, "{margin} = help: {remedy}");
}

/// The part of a line around a column (from 0), tabs as one space, and how much was cut off before it.
fn window(line: &str, column: usize) -> (String, usize) {
    let characters: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if characters.len() <= MAX_SHOWN_COLUMNS {
        return (characters.into_iter().collect(), 0);
    }
    let last_start = characters.len() - MAX_SHOWN_COLUMNS;
    let start = column.saturating_sub(MAX_SHOWN_COLUMNS / 2).min(last_start);
    (characters[start..start + MAX_SHOWN_COLUMNS].iter().collect(), start)
}
