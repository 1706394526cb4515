//! Running other programs, with errors that name them.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::failure::{Failure, Result};

/// A line of progress. On stderr, so that `cargo xtask env` stays usable in `eval`.
pub fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// Runs to the end with the terminal's input and output. The exit code of a failure is passed on as it is.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    exit_failure(status).map_or(Ok(()), Err)
}

/// Runs to the end with stdout sent to stderr: for tools that report progress on stdout.
pub fn run_aside(command: &mut Command) -> Result<()> {
    run(command.stdout(std::io::stderr()))
}

/// What the command writes to stdout, trimmed. `None` if it cannot be started or fails.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

/// True if the command starts and succeeds; its output is discarded.
pub fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Replaces this process by the command: signals and the exit code then reach it and the caller directly.
#[cfg(unix)]
pub fn replace(mut command: Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let error = command.exec();
    Err(cannot_start(&command, &error))
}

#[cfg(not(unix))]
pub fn replace(mut command: Command) -> Result<()> {
    run(&mut command)
}

/// Creates the folder and all above it.
pub fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Failure::io(format!("create the folder {}", folder.display())))
}

/// Removes a folder with all it holds; one that is not there is no error.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io(format!("remove the folder {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Why the status is a failure, or `None`. Death by a signal becomes 128 + signal, as in a shell.
pub fn exit_failure(status: ExitStatus) -> Option<Failure> {
    if status.success() {
        return None;
    }
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return Some(Failure::Exit(128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX))));
    }
    Some(Failure::Exit(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

pub fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start `{}`: {error}", command.get_program().to_string_lossy()))
}
