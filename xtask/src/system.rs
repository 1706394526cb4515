//! What the operating system has to bring: compilers, and a way to install what is missing.

use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::variable;
use crate::process::{output_of, run_aside, say, succeeds};

/// Makes sure of a C and a C++20 compiler: RocksDB and the compression libraries are built from source.
pub fn ensure_compiler() -> Result<()> {
    // jemalloc is built with make.
    let has_make = || succeeds(Command::new("make").arg("--version"));
    if has_compiler() && has_make() {
        return Ok(());
    }
    if install(&["gcc", "g++", "libc6-dev", "make"], "a C++ compiler or make is missing")?
        && has_compiler()
        && has_make()
    {
        return Ok(());
    }
    if has_compiler() {
        return Err(Failure::new(
            "`make` is missing, with which jemalloc is built. Install it (Debian, Ubuntu: apt-get install make; Fedora: \
             dnf install make; macOS: xcode-select --install)",
        ));
    }
    Err(Failure::new(format!(
        "no C compiler with C++20 works here (tried `{}` and `{}`). Install one, for instance gcc 11 or newer \
         (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++), or set CC and CXX",
        c_compiler(),
        cxx_compiler()
    )))
}

pub fn c_compiler() -> String {
    variable("CC").unwrap_or_else(|| "cc".to_string())
}

pub fn cxx_compiler() -> String {
    variable("CXX").unwrap_or_else(|| "c++".to_string())
}

/// A compiler in CC or CXX may carry arguments, like `ccache g++`.
pub fn compiler_command(compiler: &str) -> Command {
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words);
    command
}

/// Installs system packages with apt-get where that is possible (Debian or Ubuntu, as root, not forbidden by
/// WEIR_NO_INSTALL). Returns false where it is not; the caller then says what is needed.
pub fn install(packages: &[&str], reason: &str) -> Result<bool> {
    if variable("WEIR_NO_INSTALL").is_some() || !is_root() || !succeeds(Command::new("apt-get").arg("--version")) {
        return Ok(false);
    }
    say(&format!("{reason}; installing {} with apt-get", packages.join(" ")));
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        run_aside(&mut command)
    };
    if install().is_ok() {
        return Ok(true);
    }
    // A fresh container has no package lists yet.
    run_aside(Command::new("apt-get").arg("update"))?;
    Ok(install().is_ok())
}

/// The first file matching a name test in the given folder, in name order.
pub fn find_file(folder: &std::path::Path, matches: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| matches(name))
        .collect();
    names.sort();
    names.first().map(|name| folder.join(name))
}

fn has_compiler() -> bool {
    let compiles = |compiler: &str, arguments: &[&str]| {
        succeeds(compiler_command(compiler).args(arguments).args(["-fsyntax-only", "/dev/null"]))
    };
    compiles(&c_compiler(), &["-x", "c"])
        && compiles(&cxx_compiler(), &["-std=c++20", "-x", "c++", "-include", "cstdint"])
}

pub fn is_root() -> bool {
    output_of(Command::new("id").arg("-u")).is_some_and(|id| id == "0")
}
