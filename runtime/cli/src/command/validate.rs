use crate::job_file::JobFile;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_crds::text::render;
use weir_node::Registry;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let loaded = arguments.job.load(registry)?;
    let name = arguments.job.file.display().to_string();
    print!("{}", render(&loaded.diagnostics, &loaded.text, &name));
    if loaded.has_errors() {
        return Ok(ExitCode::FAILURE);
    }
    println!("{name}: valid");
    Ok(ExitCode::SUCCESS)
}
