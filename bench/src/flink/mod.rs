//! Apache Flink under measurement: a JobManager and TaskManagers as processes, with Flink's defaults but for what is
//! said here, and jobs of our own in `bench/flink`.

mod cluster;
mod configuration;
mod job;
mod rest;

pub use cluster::{FlinkCluster, UNBOUNDED};
pub use configuration::FlinkSettings;
pub use job::FlinkJob;

use crate::process::output_of;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const VERSION: &str = "2.3.0";

/// The Python package that carries Flink's jars.
const PACKAGE: &str = "apache-flink-libraries";

/// Our jobs, in `bench/flink`.
const SOURCES: [&str; 6] = [
    "FiveAggregates.java",
    "KeyedAggregate.java",
    "Pace.java",
    "SlowSink.java",
    "SqlAggregate.java",
    "WideAggregate.java",
];

/// Flink's jars, and our jobs compiled against them.
#[derive(Clone, Debug)]
pub struct FlinkInstallation {
    folder: PathBuf,
    jobs: PathBuf,
}

impl FlinkInstallation {
    /// Takes Flink from the cache, or fetches it into it; compiles the jobs into `scratch`.
    pub fn prepare(scratch: &Path) -> Result<Self> {
        let folder = cache_folder()?.join("flink").join(VERSION);
        if !folder.join("lib").is_dir() {
            fetch(&folder)?;
        }
        let jobs = compile(&folder, scratch)?;
        Ok(FlinkInstallation { folder, jobs })
    }

    fn libraries(&self) -> PathBuf {
        self.folder.join("lib")
    }

    /// With the connectors that this run needs.
    fn class_path(&self) -> OsString {
        let mut class_path = self.libraries().join("*").into_os_string();
        if let Some(connectors) = std::env::var_os("WEIR_BENCH_FLINK_CONNECTORS") {
            class_path.push(":");
            class_path.push(Path::new(&connectors).join("*"));
        }
        class_path
    }
}

/// `cargo xtask bench` names it; by hand it is where xtask would put it.
fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("WEIR_CACHE_DIR").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME").context("neither WEIR_CACHE_DIR nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/weir"))
}

fn fetch(folder: &Path) -> Result<()> {
    let explain = || {
        format!(
            "Flink {VERSION} could not be put in place. It comes from the Python package {PACKAGE} (330 MB), and needs \
             pip with access to a package index (see pip's settings for a mirror or a proxy). Use --without-flink to \
             measure Weir alone"
        )
    };
    let python = std::env::var_os("WEIR_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial).with_context(explain)?;
    eprintln!("bench: fetching Flink {VERSION}");
    let mut download = Command::new(&python);
    download
        .args(["-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--dest"])
        .arg(&partial)
        .arg(format!("{PACKAGE}=={VERSION}"));
    output_of(&mut download).with_context(explain)?;
    let wheel = std::fs::read_dir(&partial)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(explain)?;
    output_of(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&partial)).with_context(explain)?;
    std::fs::create_dir_all(folder)?;
    for part in ["bin", "lib"] {
        std::fs::rename(partial.join("pyflink").join(part), folder.join(part)).with_context(explain)?;
    }
    std::fs::remove_dir_all(&partial).with_context(|| format!("cannot remove `{}`", partial.display()))
}

/// Compiles `bench/flink/*.java` into one jar.
fn compile(folder: &Path, scratch: &Path) -> Result<PathBuf> {
    const NEEDED: &str = "Flink and its jobs need a JDK, 17 or newer, with `java`, `javac` and `jar` on the PATH \
                          (Debian, Ubuntu: apt-get install openjdk-17-jdk-headless)";
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("flink");
    let sources = SOURCES.map(|name| sources.join(name));
    let (classes, jar) = (scratch.join("classes"), scratch.join("jobs.jar"));
    std::fs::create_dir_all(&classes)?;
    let mut javac = Command::new("javac");
    javac.arg("-cp").arg(folder.join("lib/*")).arg("-d").arg(&classes).args(&sources);
    output_of(&mut javac).context(NEEDED)?;
    let mut archive = Command::new("jar");
    archive.arg("cf").arg(&jar).arg("-C").arg(&classes).arg(".");
    output_of(&mut archive).context(NEEDED)?;
    Ok(jar)
}
