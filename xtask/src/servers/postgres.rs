//! PostgreSQL, from the system's package. It refuses to run as root, so as root it runs as the package's user.

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{create_folder, output_of, run_aside, say};
use crate::system::{install, is_root};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of the database.
pub const USER: &str = "test";
/// Of the system, made by the package.
const SYSTEM_USER: &str = "postgres";
/// Debian's package keeps each version's programs in a folder of its own.
const VERSIONS: &str = "/usr/lib/postgresql";
const PACKAGE: &str = "postgresql-15";

/// Installs it where that is possible. Tests that need it say that they are skipped where it isn't here.
pub fn ensure_for_tests() {
    if let Err(Failure::Message(reason)) = ensure() {
        say(&format!("{reason}. The tests of the PostgreSQL connectors are skipped"));
    }
}

/// The folder of the programs.
pub fn ensure() -> Result<PathBuf> {
    if let Some(programs) = newest() {
        return Ok(programs);
    }
    install(&[PACKAGE], "PostgreSQL is missing")?;
    newest().ok_or_else(|| {
        Failure::new(format!(
            "PostgreSQL is not in {VERSIONS}; install 13 or newer (Debian, Ubuntu: apt-get install {PACKAGE})"
        ))
    })
}

/// Of the data of `cargo xtask server postgres`: not in a home that the server's user can't enter.
pub fn folder(layout: &Layout) -> Result<PathBuf> {
    if !is_root() {
        return Ok(layout.cache.join("servers/postgres"));
    }
    let folder = PathBuf::from("/var/tmp/weir-postgres");
    create_folder(&folder.join("data"))?;
    Ok(folder)
}

pub fn command(programs: &Path, data: &Path, port: u16) -> Result<Command> {
    if is_root() {
        run_aside(Command::new("chown").arg("-R").arg(format!("{SYSTEM_USER}:{SYSTEM_USER}")).arg(data))?;
    }
    if !data.join("PG_VERSION").exists() {
        let mut init = unprivileged(&programs.join("initdb"));
        init.args(["-A", "trust", "-E", "UTF8", "-U", USER, "-D"]).arg(data).current_dir("/");
        run_aside(init.stdin(Stdio::null()))?;
    }
    let mut command = unprivileged(&programs.join("postgres"));
    command.arg("-D").arg(data).args(["-p", &port.to_string(), "-k"]).arg(data).current_dir("/");
    for setting in ["listen_addresses=127.0.0.1", "max_prepared_transactions=64", "wal_level=logical"] {
        command.args(["-c", setting]);
    }
    Ok(command)
}

fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    // It becomes the program, so that its process id is the server's.
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={SYSTEM_USER}"), format!("--regid={SYSTEM_USER}"), "--init-groups".to_string()]);
    command.arg(program);
    command
}

fn newest() -> Option<PathBuf> {
    let installed = output_of(Command::new("ls").arg(VERSIONS))?;
    let version = installed.lines().filter_map(|version| version.parse::<u32>().ok()).max()?;
    let programs = Path::new(VERSIONS).join(version.to_string()).join("bin");
    programs.join("postgres").is_file().then_some(programs)
}
