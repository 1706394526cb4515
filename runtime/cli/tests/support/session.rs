//! What a user does with a job, from the command line.

use super::{Running, Scratch, Weir, await_condition};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

pub fn run(scratch: &Scratch, job: &Path, options: &[&str]) -> Weir {
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(options)
}

pub fn command(scratch: &Scratch, name: &str, job: &Path, options: &[&OsStr]) -> Weir {
    Weir::new(scratch.path(), [name.as_ref(), job.as_os_str()]).with(options)
}

pub fn await_checkpoint(scratch: &Scratch, job: &Path, running: &Running) {
    await_condition(&format!("a checkpoint\n{}{}", running.stdout(), running.stderr()), || {
        (!checkpoints(scratch, job).is_empty()).then_some(())
    });
}

pub fn checkpoints(scratch: &Scratch, job: &Path) -> Vec<Value> {
    let listed = command(scratch, "checkpoints", job, &["--output".as_ref(), "json".as_ref()]).succeed();
    serde_json::from_str(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed}"))
}
