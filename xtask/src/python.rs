//! A Python environment in the cache: it fetches packages, and runs the independent SQL engine the tests compare with.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{create_folder, output_of, remove_folder, run_aside, say, succeeds};
use crate::system::install;

const OLDEST_MINOR: u32 = 9;

/// The interpreter of the environment, which is created if need be.
pub fn ensure(layout: &Layout) -> Result<PathBuf> {
    let folder = layout.tools().join("python");
    let python = interpreter(&folder);
    if works(&python) {
        return Ok(python);
    }
    let system = of_system()?;
    say("creating a Python environment");
    // Also clears one whose interpreter is gone, for instance after an upgrade of the system's Python.
    remove_folder(&folder)?;
    create_folder(&layout.tools())?;
    let create = || run_aside(Command::new(&system).args(["-m", "venv"]).arg(&folder));
    if create().is_err() && install(&["python3-venv"], "the Python module venv is missing")? {
        remove_folder(&folder)?;
        create()?;
    }
    if works(&python) {
        return Ok(python);
    }
    Err(Failure::new(format!(
        "`{system} -m venv` made no working environment in {}. Install Python's venv module (Debian, Ubuntu: \
         apt-get install python3-venv)",
        folder.display()
    )))
}

/// The interpreter with the packages of the test oracle. Tests find it in WEIR_ORACLE_PYTHON.
pub fn ensure_oracle(layout: &Layout) -> Result<PathBuf> {
    ensure_packages(layout, "tools/oracle/requirements.txt", "the SQL engine that tests compare with")
}

/// The interpreter with the packages that a file of the checkout lists.
pub fn ensure_packages(layout: &Layout, requirements: &str, purpose: &str) -> Result<PathBuf> {
    let python = ensure(layout)?;
    // Inside the environment, so that it goes with it.
    let stamp = layout.tools().join("python").join(requirements.replace('/', "-"));
    let requirements = layout.checkout.join(requirements);
    let wanted =
        std::fs::read_to_string(&requirements).map_err(Failure::io(format!("read {}", requirements.display())))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    say(&format!("installing {purpose} ({})", wanted.trim().replace('\n', ", ")));
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "--disable-pip-version-check", "install", "--only-binary", ":all:", "-r"])
        .arg(&requirements);
    if run_aside(&mut pip).is_err() {
        return Err(Failure::new(format!(
            "pip could not install {}. It needs access to a Python package index (see pip's settings for a mirror or a \
             proxy) and Python 3.{OLDEST_MINOR} or newer; this one is {}",
            requirements.display(),
            output_of(Command::new(&python).arg("--version")).unwrap_or_else(|| "unknown".to_string())
        )));
    }
    std::fs::write(&stamp, wanted).map_err(Failure::io(format!("write {}", stamp.display())))?;
    Ok(python)
}

/// A folder with the packages that a file of the checkout lists, for PYTHONPATH: versions that the environment has others of.
pub fn ensure_beside(layout: &Layout, requirements: &str, purpose: &str) -> Result<PathBuf> {
    let python = ensure(layout)?;
    let requirements = layout.checkout.join(requirements);
    let wanted =
        std::fs::read_to_string(&requirements).map_err(Failure::io(format!("read {}", requirements.display())))?;
    let name = requirements.file_stem().unwrap_or_default();
    let folder = layout.tools().join("beside").join(name);
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    say(&format!("installing {purpose} ({})", wanted.trim().replace('\n', ", ")));
    remove_folder(&folder)?;
    create_folder(&folder)?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--only-binary",
        ":all:",
        "--no-deps",
        "--target",
    ])
    .arg(&folder)
    .arg("-r")
    .arg(&requirements);
    run_aside(&mut pip).map_err(|_| Failure::new(format!("pip could not install {}", requirements.display())))?;
    std::fs::write(&stamp, wanted).map_err(Failure::io(format!("write {}", stamp.display())))?;
    Ok(folder)
}

fn interpreter(folder: &Path) -> PathBuf {
    if cfg!(windows) { folder.join("Scripts/python.exe") } else { folder.join("bin/python") }
}

fn works(python: &Path) -> bool {
    python.is_file() && succeeds(Command::new(python).args(["-c", "import pip"]))
}

fn of_system() -> Result<String> {
    if let Some(python) = recent_python() {
        return Ok(python);
    }
    let installed = install(&["python3", "python3-venv"], "Python is missing")?;
    installed.then(recent_python).flatten().ok_or_else(|| {
        Failure::new(format!(
            "Python 3.{OLDEST_MINOR} or newer is needed to fetch packages and to run the tests' SQL engine. Install it \
             (Debian, Ubuntu: apt-get install python3 python3-venv)"
        ))
    })
}

fn recent_python() -> Option<String> {
    let test = format!("import sys; sys.exit(sys.version_info < (3, {OLDEST_MINOR}))");
    ["python3", "python"].into_iter().find(|name| succeeds(Command::new(name).args(["-c", &test]))).map(String::from)
}
