//! libclang, with which the bindings to RocksDB are generated at build time.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::{Layout, variable};
use crate::process::{create_folder, output_of, remove_folder, run_aside, say};
use crate::python;
use crate::system::{c_compiler, compiler_command, find_file, install};

/// The Python package that carries libclang as a shared library, for systems without one.
const WHEEL: &str = "libclang==18.1.1";

/// The folder that holds libclang: LIBCLANG_PATH, the system's, the one in the cache, or one fetched now.
pub fn ensure(layout: &Layout) -> Result<PathBuf> {
    if let Some(path) = variable("LIBCLANG_PATH") {
        return from_variable(Path::new(&path));
    }
    let fetched = layout.tools().join("libclang");
    if let Some(folder) = of_system().or_else(|| search(&fetched)) {
        return Ok(folder);
    }
    if let Err(failure) = fetch(layout, &fetched) {
        say("libclang cannot be fetched as a Python package");
        if !install(&["libclang-dev"], "libclang is missing")? {
            return Err(explain(failure));
        }
    }
    search(&fetched)
        .or_else(of_system)
        .ok_or_else(|| explain(Failure::new("no libclang was found after installing one")))
}

/// Arguments for bindgen: a libclang without its own headers (as in the Python package) lacks `stdbool.h` and the like.
pub fn bindgen_arguments() -> Option<String> {
    if let Some(arguments) = variable("BINDGEN_EXTRA_CLANG_ARGS") {
        return Some(arguments);
    }
    let include = output_of(compiler_command(&c_compiler()).arg("-print-file-name=include"))?;
    // clang answers with the bare word, and has its headers where libclang finds them.
    Path::new(&include).is_absolute().then(|| format!("-I{include}"))
}

fn from_variable(path: &Path) -> Result<PathBuf> {
    if path.is_file() || find_file(path, is_libclang).is_some() {
        return Ok(path.to_path_buf());
    }
    Err(Failure::new(format!(
        "LIBCLANG_PATH is {}, but no libclang is there. Set it to the folder of libclang.so, or unset it to have \
         one fetched",
        path.display()
    )))
}

fn of_system() -> Option<PathBuf> {
    let from_config = output_of(Command::new("llvm-config").arg("--libdir")).map(PathBuf::from);
    let versioned = std::fs::read_dir("/usr/lib").ok().into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.starts_with("llvm-").then(|| entry.path().join("lib"))
    });
    let fixed = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/opt/homebrew/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
    ];
    // The newest versioned folder first; the order must not depend on the file system.
    let mut versioned: Vec<PathBuf> = versioned.collect();
    versioned.sort();
    from_config
        .into_iter()
        .chain(versioned.into_iter().rev())
        .chain(fixed.into_iter().map(PathBuf::from))
        .find(|folder| find_file(folder, is_libclang).is_some())
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.dylib`; not `libclang-cpp.so`, which has no C interface.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else {
        return false;
    };
    (rest.starts_with('.') || rest.starts_with('-'))
        && !rest.starts_with("-cpp")
        && (rest.contains(".so") || rest.ends_with(".dylib"))
}

/// Looks through an unpacked package: the folder's depth differs between platforms.
fn search(folder: &Path) -> Option<PathBuf> {
    if find_file(folder, is_libclang).is_some() {
        return Some(folder.to_path_buf());
    }
    let mut inner: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    inner.sort();
    inner.iter().find_map(|folder| search(folder))
}

fn fetch(layout: &Layout, destination: &Path) -> Result<()> {
    say(&format!("fetching {WHEEL}, with which the bindings to RocksDB are generated"));
    let python = python::ensure(layout)?;
    let partial = layout.tools().join(format!("libclang.partial-{}", std::process::id()));
    remove_folder(&partial)?;
    let unpacked = partial.join("unpacked");
    create_folder(&unpacked)?;
    run_aside(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "--disable-pip-version-check",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--dest",
            ])
            .arg(&partial)
            .arg(WHEEL),
    )?;
    let wheel = find_file(&partial, |name| name.ends_with(".whl"))
        .ok_or_else(|| Failure::new(format!("pip fetched no wheel of {WHEEL}")))?;
    run_aside(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    remove_folder(destination)?;
    std::fs::rename(&unpacked, destination)
        .map_err(Failure::io(format!("move libclang to {}", destination.display())))?;
    remove_folder(&partial)
}

fn explain(failure: Failure) -> Failure {
    let reason = match failure {
        Failure::Message(message) => format!(" ({message})"),
        Failure::Exit(_) => String::new(),
    };
    Failure::new(format!(
        "libclang is needed to build the bindings to RocksDB and could not be put in place{reason}. Install it \
         (Debian, Ubuntu: apt-get install libclang-dev; Fedora: dnf install clang-devel; macOS: xcode-select \
         --install), or set LIBCLANG_PATH to the folder that holds it"
    ))
}

#[cfg(test)]
mod tests {
    use super::is_libclang;

    #[test]
    fn knows_libclang_by_name() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-18.so.18", "libclang.dylib"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclangAST.a", "libclang.a", "clang.so", "libclang_rt.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
