//! Writes what is generated from the API's types and names, or checks that it is what they say.

use anyhow::{Context, bail};
use std::path::Path;
use std::process::ExitCode;

/// Every generated file: its path in the checkout, and its text.
fn generated() -> [(&'static str, String); 2] {
    [
        ("docs/reference/openapi.json", weir_api::openapi::document()),
        ("docs/reference/metrics.md", weir_api::metrics::markdown()),
    ]
}

fn main() -> anyhow::Result<ExitCode> {
    // Asked for while it runs, not while it is built: one target folder may serve several checkouts.
    let crate_folder = std::env::var("CARGO_MANIFEST_DIR").context("run it by cargo, which says where the crate is")?;
    let checkout = Path::new(&crate_folder).join("../..");
    match std::env::args().nth(1).as_deref() {
        Some("--write") => {
            for (name, text) in generated() {
                std::fs::write(checkout.join(name), &text).with_context(|| format!("cannot write {name}"))?;
                println!("{name}: {} bytes", text.len());
            }
            Ok(ExitCode::SUCCESS)
        }
        Some("--check") => {
            let is_stale = |(name, text): &(&str, String)| {
                std::fs::read_to_string(checkout.join(name)).unwrap_or_default() != *text
            };
            let stale: Vec<&str> = generated().iter().filter(|file| is_stale(file)).map(|(name, _)| *name).collect();
            if stale.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("not what the types say: {}\nrun: cargo xtask api", stale.join(", "));
            Ok(ExitCode::FAILURE)
        }
        _ => bail!("usage: apigen --write | --check"),
    }
}
