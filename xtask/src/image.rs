//! Weir's container image, made without a container engine: the two programs, the shared libraries that they need,
//! and the certificates of public authorities.

use std::path::PathBuf;
use std::process::Command;

use crate::build_env::BuildEnv;
use crate::cluster;
use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{create_folder, output_of, run_aside, say};

/// What the image is called; its tag follows from its content.
const REPOSITORY: &str = "weir.local/weir";
/// Neither root nor anyone that a machine knows.
const USER: &str = "65532";
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Of the content's hash, in the tag.
const TAG_LENGTH: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: for trying things out.
    Debug,
    Release,
}

pub struct Image {
    /// With its tag.
    pub name: String,
    /// In the form of `docker save`.
    pub tar: PathBuf,
}

/// `cargo xtask image [--debug]`
pub fn command(layout: &Layout, arguments: &[String]) -> Result<()> {
    let profile = match arguments {
        [] => Profile::Release,
        [only] if only == "--debug" => Profile::Debug,
        _ => return Err(Failure::new("usage: cargo xtask image [--debug]")),
    };
    let image = build(layout, profile)?;
    println!("{}\n{}", image.name, image.tar.display());
    Ok(())
}

/// Builds the programs and puts them into an image.
pub fn build(layout: &Layout, profile: Profile) -> Result<Image> {
    let env = BuildEnv::prepare(layout)?;
    let (folder, flags): (&str, &[&str]) = match profile {
        // A test among them brings the features of the tests' dependencies: what the tests have built serves here too.
        Profile::Debug => ("debug", &["--test", "cluster_jobs"]),
        Profile::Release => ("release", &["--release"]),
    };
    let mut cargo = env.cargo(&["build", "--workspace", "--bin", "weir", "--bin", "weir-operator"]);
    run_aside(cargo.args(flags).current_dir(&layout.checkout))?;
    let images = layout.cache.join("images");
    create_folder(&images)?;
    let stripped = |name: &str| -> Result<PathBuf> {
        let (built, out) = (layout.target.join(folder).join(name), images.join(name));
        run_aside(Command::new("strip").arg("-o").arg(&out).arg(&built))?;
        Ok(out)
    };
    let (weir, operator) = (stripped("weir")?, stripped("weir-operator")?);
    let hash = output_of(Command::new("sh").arg("-c").arg("cat \"$0\" \"$1\" | sha256sum").arg(&weir).arg(&operator))
        .filter(|hash| hash.len() > TAG_LENGTH)
        .ok_or_else(|| Failure::new("cannot hash the programs with `sha256sum`"))?;
    let name = format!("{REPOSITORY}:{}", &hash[..TAG_LENGTH]);
    let tar = images.join("weir.tar");
    let mut mkimage = cluster::script(layout, &["mkimage", "--user", USER, &name]);
    mkimage.arg(&tar).arg(&weir).arg(format!("{}=weir-operator", operator.display()));
    if std::path::Path::new(AUTHORITIES).exists() {
        mkimage.arg(format!("{AUTHORITIES}={}", &AUTHORITIES[1..]));
    }
    run_aside(&mut mkimage)?;
    let size = std::fs::metadata(&tar).map_err(Failure::io(format!("look at {}", tar.display())))?.len();
    say(&format!("image {name}: {} MB in {}", size / 1_000_000, tar.display()));
    Ok(Image { name, tar })
}
