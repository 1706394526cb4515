//! Getting the servers, each once.

use super::{Server, postgres};
use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{create_folder, output_of, remove_folder, run_aside, say, succeeds};
use crate::python;
use std::path::{Path, PathBuf};
use std::process::Command;

const MINIO: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";
const AZURITE: &str = "azurite@3.35.0";
const KINESALITE: &str = "kinesalite@3.3.3";

/// What runs the server: a program, or for Python and Java the interpreter or the folder of its libraries.
pub fn ensure(layout: &Layout, server: Server) -> Result<PathBuf> {
    let folder = layout.tools().join("servers");
    match server {
        Server::S3 => built_by_go(&folder.join("minio"), "minio", MINIO, "5 minutes on 2 cores"),
        Server::S3Light => python::ensure_packages(layout, "tools/servers/s3-light.txt", "the S3 server of the tests"),
        Server::Gcs => gcs(layout, &folder.join("gcs")),
        Server::Azure => azurite(&folder.join("azurite")),
        Server::Kinesis => kinesalite(&folder.join("kinesalite")),
        Server::Hdfs => by_maven(layout, "hdfs", "HDFS needs"),
        Server::Kafka => by_maven(layout, "kafka", "Kafka needs"),
        Server::Postgres => postgres::ensure(),
        Server::Iceberg => iceberg(layout),
    }
}

/// The libraries of Iceberg's REST catalog, and the client that reads its tables in tests.
pub fn iceberg(layout: &Layout) -> Result<PathBuf> {
    python::ensure_packages(layout, "tools/oracle/iceberg.txt", "the Iceberg client of the tests")?;
    by_maven(layout, "iceberg", "Iceberg needs")
}

/// Another client that reads them, a folder of Python packages.
pub fn iceberg_duckdb(layout: &Layout) -> Result<PathBuf> {
    python::ensure_beside(layout, "tools/oracle/duckdb-iceberg.txt", "DuckDB's Iceberg client")
}

/// What Flink reads and writes Kafka with, for benchmarks.
pub fn flink_kafka_connector(layout: &Layout) -> Result<PathBuf> {
    by_maven(layout, "flink-kafka", "Flink's Kafka connector needs")
}

fn built_by_go(folder: &Path, program: &str, module: &str, duration: &str) -> Result<PathBuf> {
    let binary = folder.join("bin").join(program);
    if binary.is_file() {
        return Ok(binary);
    }
    require("go", &["version"], &format!("{program} is built from source by Go 1.24 or newer"))?;
    say(&format!("building {program} (about {duration}, once)"));
    create_folder(folder)?;
    let mut go = Command::new("go");
    go.args(["install", "-ldflags", "-s -w", module]).env("GOBIN", folder.join("bin"));
    run_aside(&mut go).map_err(|_| {
        Failure::new(format!("`go install {module}` failed; it needs access to a Go module proxy (see GOPROXY)"))
    })?;
    Ok(binary)
}

/// Of this checkout's own source, which Go looks at each time: what is built already costs it a second.
fn gcs(layout: &Layout, folder: &Path) -> Result<PathBuf> {
    let binary = folder.join("bin/gcs");
    require("go", &["version"], "the server for Google Cloud Storage is built from source by Go 1.26 or newer")?;
    if !binary.is_file() {
        say("building the server for Google Cloud Storage (2 minutes on 2 cores, once)");
    }
    let mut go = Command::new("go");
    go.arg("build").arg("-C").arg(layout.checkout.join("tools/servers/gcs"));
    go.args(["-ldflags", "-s -w", "-o"]).arg(&binary).arg(".");
    run_aside(&mut go).map_err(|_| {
        Failure::new("the server for Google Cloud Storage could not be built; it needs access to a Go module proxy (see GOPROXY)")
    })?;
    Ok(binary)
}

fn azurite(folder: &Path) -> Result<PathBuf> {
    by_npm(folder, AZURITE, "node_modules/.bin/azurite-blob", "the Azure emulator")
}

/// The folder of its modules.
fn kinesalite(folder: &Path) -> Result<PathBuf> {
    by_npm(folder, KINESALITE, "node_modules", "the Kinesis server")
}

fn by_npm(folder: &Path, package: &str, made: &str, what: &str) -> Result<PathBuf> {
    let made = folder.join(made);
    if made.exists() {
        return Ok(made);
    }
    require("npm", &["--version"], &format!("{what} is an npm package and needs Node 20 or newer"))?;
    say(&format!("installing {what} (half a minute at most, once)"));
    create_folder(folder)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(folder).arg(package);
    run_aside(&mut npm)
        .map_err(|_| Failure::new(format!("`npm install {package}` failed; it needs access to an npm registry")))?;
    Ok(made)
}

/// The folder of the libraries that a project under `tools/servers` names.
fn by_maven(layout: &Layout, project: &str, needs: &str) -> Result<PathBuf> {
    let folder = layout.tools().join("servers").join(project);
    let pom = layout.checkout.join(format!("tools/servers/{project}/pom.xml"));
    let wanted = std::fs::read_to_string(&pom).map_err(Failure::io(format!("read {}", pom.display())))?;
    // Other checkouts may want others.
    let libraries = folder.join(format!("lib-{:08x}", sum_of(&wanted)));
    require("java", &["-version"], &format!("{needs} Java 17 or newer"))?;
    if libraries.is_dir() {
        return Ok(libraries);
    }
    require("mvn", &["--version"], &format!("{needs} Maven, which fetches libraries"))?;
    say(&format!("fetching the libraries of {project} (half a minute, once)"));
    // Under another name first: what an interruption leaves isn't taken for all.
    let partial = folder.join("partial");
    remove_folder(&partial)?;
    create_folder(&partial)?;
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-f"]).arg(&pom);
    maven.arg(format!("-DoutputDirectory={}", partial.display()));
    run_aside(&mut maven).map_err(|_| {
        Failure::new(format!("Maven could not fetch the libraries of {project}; it needs access to a Maven repository"))
    })?;
    std::fs::rename(&partial, &libraries).map_err(Failure::io(format!("create {}", libraries.display())))?;
    Ok(libraries)
}

/// Tells texts from one another.
fn sum_of(text: &str) -> u32 {
    text.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

fn require(program: &str, version: &[&str], why: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(version);
    if succeeds(&mut command) || output_of(&mut command).is_some() {
        return Ok(());
    }
    let package = match program {
        "java" => "openjdk-17-jre-headless",
        "mvn" => "maven",
        "go" => "golang",
        other => other,
    };
    Err(Failure::new(format!(
        "{why}; `{program}` is not here. Install it (Debian, Ubuntu: apt-get install {package}), or leave this server out"
    )))
}
