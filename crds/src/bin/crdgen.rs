//! Writes `crds/generated`, the same for the Helm chart, and the StreamJob reference in `docs`; or checks that they are
//! what the types say; or prints the reference.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};

fn main() -> anyhow::Result<ExitCode> {
    // Asked for while it runs, not while it is built: one target folder may serve several checkouts.
    let crate_folder = std::env::var("CARGO_MANIFEST_DIR").context("run it by cargo, which says where the crate is")?;
    let checkout = Path::new(&crate_folder).join("..");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--write"] => write(&checkout),
        ["--check"] => check(&checkout),
        ["--reference"] => {
            print!("{}", weir_crds::reference::markdown());
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: crdgen --write | --check | --reference"),
    }
}

/// Every generated file: its path in the checkout, and its text.
fn generated() -> anyhow::Result<Vec<(PathBuf, String)>> {
    // Once for `kubectl apply`, once for the chart.
    let folders = ["crds/generated", "charts/weir/crds"];
    let rendered = weir_crds::crd::rendered()?;
    let definitions = folders
        .iter()
        .flat_map(|folder| rendered.iter().map(move |(name, text)| (Path::new(folder).join(name), text.clone())));
    let reference = (PathBuf::from("docs/reference/streamjob.md"), weir_crds::reference::markdown());
    Ok(definitions.chain([reference]).collect())
}

fn write(checkout: &Path) -> anyhow::Result<ExitCode> {
    for (name, text) in generated()? {
        let path = checkout.join(&name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} bytes", name.display(), text.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn check(checkout: &Path) -> anyhow::Result<ExitCode> {
    let mut stale = Vec::new();
    for (name, text) in generated()? {
        let standing = fs::read_to_string(checkout.join(&name)).unwrap_or_default();
        if standing != text {
            stale.push(name.display().to_string());
        }
    }
    if stale.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("not what the types say: {}\nrun: cargo run -p weir-crds --bin crdgen -- --write", stale.join(", "));
    Ok(ExitCode::FAILURE)
}
