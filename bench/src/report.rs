//! Results: a table on standard output, and a JSON and a Markdown file.

use crate::machine::Machine;
use crate::measure::Measure;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// What one benchmark came to.
#[derive(Serialize)]
pub struct Report {
    pub benchmark: String,
    /// UTC.
    pub date: String,
    pub machine: Machine,
    pub versions: Vec<String>,
    /// What was asked for, and how often and how long it was measured.
    pub command: String,
    pub table: Table,
    /// What the figures mean, and what must be known of them.
    pub notes: Vec<String>,
    /// All runs, in the order in which they were made.
    pub runs: Vec<Run>,
}

#[derive(Default, Serialize)]
pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub contender: String,
    pub measure: Measure,
}

impl Report {
    /// Prints it, and writes both files into the folder.
    pub fn publish(&self, folder: &Path) -> Result<()> {
        let markdown = self.markdown();
        println!("{markdown}");
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let stem = format!("{}-{}", &self.date[..10], self.benchmark);
        let write = |extension: &str, text: &str| {
            let path = folder.join(format!("{stem}.{extension}"));
            std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
        };
        write("md", &markdown)?;
        write("json", &(serde_json::to_string_pretty(self)? + "\n"))
    }

    fn markdown(&self) -> String {
        let Machine { cpu, cores, memory_gib, kernel, load_average } = &self.machine;
        let mut out = format!("# {}\n", self.benchmark);
        writeln!(
            out,
            "{}. {cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}; load average {load_average} at the end. {}. \
             `cargo xtask bench {}`\n",
            self.date,
            self.versions.join(", "),
            self.command
        )
        .ok();
        out.push_str(&self.table.markdown());
        for note in &self.notes {
            write!(out, "\n{note}\n").ok();
        }
        out
    }
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Table { header: header.iter().map(|cell| (*cell).to_owned()).collect(), rows: vec![] }
    }

    fn markdown(&self) -> String {
        let cells = |row: &[String]| format!("| {} |\n", row.join(" | "));
        let mut out = cells(&self.header);
        out.push_str(&cells(&vec!["---".to_owned(); self.header.len()]));
        self.rows.iter().for_each(|row| out.push_str(&cells(row)));
        out
    }
}

/// `22.4 M/s`
pub fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e5 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.1}/s"),
    }
}

/// `1.2 MiB`
pub fn bytes(count: f64) -> String {
    match count {
        count if count >= 1_073_741_824.0 => format!("{:.2} GiB", count / 1_073_741_824.0),
        count if count >= 1_048_576.0 => format!("{:.1} MiB", count / 1_048_576.0),
        count => format!("{:.1} KiB", count / 1024.0),
    }
}
