//! The independent engine: DuckDB, in the Python that `cargo xtask` prepares.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What the oracle's SQL may use besides DuckDB's own functions: the start of the window of a timestamp.
const SETUP: &str = "CREATE MACRO tumble(t, size) AS time_bucket(size, t, TIMESTAMP '1970-01-01')";

/// A table of the oracle: files that a job reads, or that it wrote.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    /// A glob.
    pub files: String,
    /// `json` (lines) or `csv`.
    pub format: &'static str,
    /// Name and SQL type.
    pub columns: Vec<(String, String)>,
}

/// How the result of a run is compared with what is expected.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The same rows, each as often.
    Exact,
    /// Each expected row, as often or more.
    NoLoss,
    /// For each expected row one that is at least as large in these columns and the same in all others.
    AtLeast(Vec<&'static str>),
}

/// One expected result, and the runs that should have it.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    pub sql: String,
    /// The column of the change kind, where the result is a changelog.
    pub change_column: Option<&'static str>,
    pub mode: Mode,
    /// Whether the oracle's result may have no rows, as where nothing is the point of the case.
    pub may_be_empty: bool,
    pub runs: Vec<Run>,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub label: String,
    pub rows: Rows,
}

/// What a run wrote.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The folder of a file sink with JSON lines.
    Folder(PathBuf),
    /// SQL that reads the files, with the columns in the order of what is expected.
    Sql(String),
}

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub tables: Vec<Table>,
    pub checks: Vec<Check>,
}

impl Oracle {
    /// What is wrong, in words; `spec_path` is where the comparison is written down, to be repeated by hand.
    pub fn compare(&self, spec_path: &Path) -> Result<(), String> {
        std::fs::write(spec_path, self.spec().to_string()).expect("write the comparison");
        python("compare.py", &[&spec_path.display().to_string()])
    }

    fn spec(&self) -> Value {
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|table| json!({"name": table.name, "files": table.files, "format": table.format, "columns": table.columns}))
            .collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                let (mode, at_least): (&str, &[&str]) = match &check.mode {
                    Mode::Exact => ("exact", &[]),
                    Mode::NoLoss => ("no loss", &[]),
                    Mode::AtLeast(columns) => ("at least", columns),
                };
                let run = |run: &Run| match &run.rows {
                    Rows::Folder(folder) => json!({"label": run.label, "folder": folder}),
                    Rows::Sql(sql) => json!({"label": run.label, "rows": sql}),
                };
                json!({
                    "name": check.name,
                    "sql": check.sql,
                    "change_column": check.change_column,
                    "mode": mode,
                    "at_least": at_least,
                    "may_be_empty": check.may_be_empty,
                    "runs": check.runs.iter().map(run).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({"setup": SETUP, "tables": tables, "checks": checks})
    }
}

/// Writes the tables that data.py makes of a seed, once, and returns their folder.
pub fn tables(seed: u64) -> PathBuf {
    static WRITES: Mutex<()> = Mutex::new(());
    // A test that panicked while it wrote left a partial folder at most.
    let _alone = WRITES.lock().unwrap_or_else(PoisonError::into_inner);
    let script = std::fs::read(script("data.py")).expect("read data.py");
    // A changed generator writes to another folder, so that none reads what an older one left.
    let version = script.iter().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-tables-{version:08x}-{seed}"));
    if folder.is_dir() {
        return folder;
    }
    // Another test process may do the same at this moment: only whole folders get the final name.
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    if partial.exists() {
        std::fs::remove_dir_all(&partial).expect("remove a partial copy");
    }
    python("data.py", &[&partial.display().to_string(), &seed.to_string()])
        .unwrap_or_else(|problem| panic!("{problem}"));
    if std::fs::rename(&partial, &folder).is_err() {
        assert!(folder.is_dir(), "cannot move {} to {}", partial.display(), folder.display());
        std::fs::remove_dir_all(&partial).expect("remove the second copy");
    }
    folder
}

fn python(name: &str, arguments: &[&str]) -> Result<(), String> {
    let interpreter = std::env::var("WEIR_ORACLE_PYTHON").unwrap_or_else(|_| {
        panic!("WEIR_ORACLE_PYTHON is not set: run `cargo xtask test`, or `eval \"$(cargo xtask env)\"` first")
    });
    let mut command = Command::new(&interpreter);
    // Without byte code, which would land in the checkout.
    command.arg("-B").arg(script(name)).args(arguments);
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {interpreter}: {error}"));
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/oracle").join(name)
}
