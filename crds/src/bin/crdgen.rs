//! Writes `crds/generated`, or checks that it is what the types say; or prints the StreamJob reference.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};

const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/generated");

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--write"] => write(Path::new(GENERATED)),
        ["--check"] => check(Path::new(GENERATED)),
        ["--reference"] => {
            print!("{}", weir_crds::reference::markdown());
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: crdgen --write | --check | --reference"),
    }
}

fn write(folder: &Path) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in weir_crds::crd::rendered()? {
        let path = folder.join(&name);
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{name}: {} bytes", text.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn check(folder: &Path) -> anyhow::Result<ExitCode> {
    let mut stale = Vec::new();
    for (name, text) in weir_crds::crd::rendered()? {
        let standing = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        if standing != text {
            stale.push(name);
        }
    }
    if stale.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("not what the types say: {}\nrun: cargo run -p weir-crds --bin crdgen -- --write", stale.join(", "));
    Ok(ExitCode::FAILURE)
}
