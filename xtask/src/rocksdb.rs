//! RocksDB, compiled once.
//!
//! Cargo would compile its 340 C++ files again for each profile and after each `cargo clean`. So they are compiled
//! here, as a dependency of an empty package in the cache, from the version and features that the workspace uses;
//! the library is kept, and `ROCKSDB_LIB_DIR` tells the build script of `librocksdb-sys` to link it. The compression
//! libraries are small and each build brings its own, from the crates `lz4-sys` and `zstd-sys`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::layout::{Layout, variable};
use crate::process::{cannot_start, create_folder, exit_failure, output_of, remove_folder, say};
use crate::system::{compiler_command, cxx_compiler};

const LIBRARY: &str = "librocksdb.a";
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The folder that holds the library, which is compiled if need be. `build_variables` are those the bindings need.
pub fn ensure(layout: &Layout, build_variables: &[(&'static str, String)]) -> Result<PathBuf> {
    let libraries = layout.cache.join("rocksdb");
    let given = variable("ROCKSDB_LIB_DIR").map(PathBuf::from);
    // One inside our own cache is not taken as it stands: a shell that got its variables from `cargo xtask env` would
    // go on linking yesterday's version.
    if let Some(folder) = given.as_ref().filter(|folder| !folder.starts_with(&libraries)) {
        return of_user(folder);
    }
    let wanted = Wanted::read(layout)?;
    let folder = libraries.join(wanted.key());
    if folder.join(LIBRARY).is_file() {
        // A link to it stays as it was given: cargo builds anew whenever the variable changes.
        return Ok(given.filter(|given| is_same(given, &folder)).unwrap_or(folder));
    }
    let package = libraries.join(format!("build-{}", wanted.key()));
    compile(layout, &wanted, &package, build_variables)?;
    keep(&package, &folder)?;
    remove_folder(&package)?;
    say(&format!("RocksDB is built and kept in {}", folder.display()));
    Ok(folder)
}

/// What is to be compiled, as the workspace states it.
struct Wanted {
    /// The line of the workspace's Cargo.toml, `rocksdb = { ... }`.
    dependency: String,
    /// Features that change the compiled library.
    features: Vec<String>,
    /// The version of the crate `librocksdb-sys`, from Cargo.lock; it names the version of RocksDB too.
    version: String,
}

impl Wanted {
    fn read(layout: &Layout) -> Result<Self> {
        let read = |name: &str| {
            let path = layout.checkout.join(name);
            std::fs::read_to_string(&path).map_err(Failure::io(format!("read {}", path.display())))
        };
        Wanted::parse(&read("Cargo.toml")?, &read("Cargo.lock")?)
    }

    fn parse(manifest: &str, lock: &str) -> Result<Self> {
        let dependency = manifest.lines().find(|line| line.starts_with("rocksdb = ")).ok_or_else(|| {
            Failure::new("Cargo.toml has no line `rocksdb = { ... }` under [workspace.dependencies], on one line")
        })?;
        let features = dependency
            .split_once("features = [")
            .and_then(|(_, rest)| rest.split_once(']'))
            .map_or("", |(list, _)| list)
            .split(',')
            .map(|feature| feature.trim().trim_matches('"').to_string())
            // These change the Rust side alone.
            .filter(|feature| !matches!(feature.as_str(), "" | "bindgen-runtime" | "multi-threaded-cf"))
            .collect();
        let version = lock
            .split_once("name = \"librocksdb-sys\"")
            .and_then(|(_, rest)| rest.split_once("version = \""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(version, _)| version.to_string())
            .ok_or_else(|| Failure::new("Cargo.lock does not name librocksdb-sys; `cargo metadata` writes it anew"))?;
        Ok(Wanted { dependency: dependency.to_string(), features, version })
    }

    /// A folder name that differs whenever the compiled library would: version, features, compiler, machine, flags.
    fn key(&self) -> String {
        let compiler = cxx_compiler();
        let version = ["-dumpfullversion", "-dumpversion"]
            .into_iter()
            .find_map(|flag| output_of(compiler_command(&compiler).arg(flag)))
            .unwrap_or_else(|| "unknown".to_string());
        let flags: String = ["CXXFLAGS", "CFLAGS", "RUSTFLAGS"]
            .into_iter()
            .filter_map(|name| Some(format!("-{name}={}", variable(name)?)))
            .collect();
        let mut features = self.features.clone();
        features.sort();
        let mut key = format!("{}-{}-{compiler}-{version}", self.version, features.join("-"));
        key.push_str(&format!("-{}-{}", std::env::consts::OS, std::env::consts::ARCH));
        if !flags.is_empty() {
            key.push_str(&format!("-{:016x}", fingerprint(&flags)));
        }
        key.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect()
    }
}

/// A library that the user brings.
fn of_user(folder: &Path) -> Result<PathBuf> {
    if folder.join(LIBRARY).is_file() {
        return Ok(folder.to_path_buf());
    }
    Err(Failure::new(format!(
        "ROCKSDB_LIB_DIR is {}, but there is no {LIBRARY}. Set it to the folder of a static RocksDB of the version \
         in Cargo.lock, or unset it to have one built",
        folder.display()
    )))
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn compile(layout: &Layout, wanted: &Wanted, package: &Path, variables: &[(&'static str, String)]) -> Result<()> {
    say(&format!(
        "compiling RocksDB ({}) once; about 12 minutes on 2 cores, needed again only for another version, compiler \
         or set of features",
        wanted.version
    ));
    let write = |name: &str, text: &str| {
        let path = package.join(name);
        std::fs::write(&path, text).map_err(Failure::io(format!("write {}", path.display())))
    };
    create_folder(&package.join("src"))?;
    write("Cargo.toml", &manifest(&wanted.dependency))?;
    write("src/lib.rs", "")?;
    // The same versions of all crates as in the workspace; cargo drops those that are not needed here.
    std::fs::copy(layout.checkout.join("Cargo.lock"), package.join("Cargo.lock"))
        .map_err(Failure::io(format!("copy Cargo.lock to {}", package.display())))?;

    let target = package.join("target");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release"]).current_dir(package).env("CARGO_TARGET_DIR", &target);
    cargo.env_remove("ROCKSDB_LIB_DIR").env_remove("ROCKSDB_STATIC").envs(variables.iter().map(|(k, v)| (k, v)));
    cargo.stdout(std::io::stderr());
    let child = cargo.spawn().map_err(|error| cannot_start(&cargo, &error))?;
    wait_with_progress(child, &target, &wanted.version)
}

fn manifest(dependency: &str) -> String {
    format!(
        "[package]\nname = \"rocksdb-once\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n\
         {dependency}\n\n[profile.release]\ndebug = false\n\n[workspace]\n"
    )
}

/// Cargo says nothing while a build script runs, and this one runs for minutes: the object files tell how far it is.
fn wait_with_progress(mut child: Child, target: &Path, version: &str) -> Result<()> {
    let total = count_sources(version);
    let started = Instant::now();
    let mut reported = started;
    loop {
        let status = child.try_wait().map_err(Failure::io("wait for cargo"))?;
        if let Some(status) = status {
            return exit_failure(status).map_or(Ok(()), |_| {
                Err(Failure::new(
                    "RocksDB could not be compiled; the lines above say why. Running the command again tries it again",
                ))
            });
        }
        if reported.elapsed() >= PROGRESS_INTERVAL {
            reported = Instant::now();
            report(target, total, started);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn report(target: &Path, total: Option<usize>, started: Instant) {
    let compiled: usize = outputs(target).map(|out| count_objects(&out)).sum();
    // Before the first file cargo builds what the build script needs, and says so itself.
    if compiled > 0 {
        let total = total.map_or(String::new(), |total| format!(" of {total}"));
        let seconds = started.elapsed().as_secs();
        say(&format!("RocksDB: {compiled}{total} files compiled in {} min {} s", seconds / 60, seconds % 60));
    }
}

/// Moves the compiled library to its folder in one step: a folder with that name is always complete.
fn keep(package: &Path, folder: &Path) -> Result<()> {
    let library = outputs(&package.join("target"))
        .map(|out| out.join(LIBRARY))
        .find(|library| library.is_file())
        .ok_or_else(|| Failure::new(format!("cargo built RocksDB, but {LIBRARY} is not in {}", package.display())))?;
    // Beside the compiled files, which are removed in the end, and on the same file system.
    let partial = package.join("kept");
    create_folder(&partial)?;
    std::fs::copy(&library, partial.join(LIBRARY)).map_err(Failure::io(format!("copy {}", library.display())))?;
    match std::fs::rename(&partial, folder) {
        // Another process was first; its library is the same.
        Err(_) if folder.join(LIBRARY).is_file() => Ok(()),
        renamed => renamed.map_err(Failure::io(format!("move RocksDB to {}", folder.display()))),
    }
}

/// The output folders of RocksDB's build script, at most one for each set of flags it was built with.
fn outputs(target: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(target.join("release/build")).ok();
    entries.into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.starts_with("librocksdb-sys-").then(|| entry.path().join("out"))
    })
}

fn count_objects(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let is_object = |path: &PathBuf| path.extension() == Some(OsStr::new("o"));
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_object).count()
}

/// How many files will be compiled, from the list in the crate's source. Only for progress: `None` if it is not found.
fn count_sources(version: &str) -> Option<usize> {
    let home =
        variable("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let list = format!("librocksdb-sys-{version}/rocksdb_lib_sources.txt");
    let text = registries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join(&list)).ok()).next()?;
    Some(text.lines().filter(|line| !line.trim().is_empty()).count())
}

/// FNV-1a: stable between builds of xtask, unlike the standard library's hasher.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "[[package]]\nname = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\"\nsource = \"x\"\n";

    #[test]
    fn reads_version_and_features() {
        let line = r#"rocksdb = { version = "=0.25.0", features = ["zstd", "lz4", "bindgen-runtime"] }"#;
        let wanted = Wanted::parse(&format!("[workspace.dependencies]\n{line}\n"), LOCK).expect("parses");
        assert_eq!(wanted.version, "0.19.0+11.8.1");
        assert_eq!(wanted.features, ["zstd", "lz4"]);
        assert!(wanted.key().starts_with("0.19.0_11.8.1-lz4-zstd-"), "{}", wanted.key());
        assert!(manifest(&wanted.dependency).contains(line));
    }

    #[test]
    fn names_what_is_missing() {
        for (manifest, lock, expected) in [("", LOCK, "no line `rocksdb"), ("rocksdb = \"1\"", "", "does not name")] {
            match Wanted::parse(manifest, lock) {
                Err(Failure::Message(message)) => assert!(message.contains(expected), "{message}"),
                _ => panic!("{expected}: should be refused"),
            }
        }
    }
}
