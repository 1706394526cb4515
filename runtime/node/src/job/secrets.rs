//! Values that don't stand in a job's text.

use std::path::PathBuf;
use weir_crds::streamjob::{SecretKeyRef, SecretOrigin, SecretValue};

/// The folder with the Secrets that a job may use, each a folder with a file for every key, as Kubernetes mounts them.
pub(super) const SECRETS_FOLDER: &str = "WEIR_SECRETS_DIR";

/// # Errors
/// What is missing, without any part of a value.
pub(super) fn value(secret: &SecretValue) -> Result<String, String> {
    match secret.origin() {
        Some(SecretOrigin::Value(value)) => Ok(value.to_owned()),
        Some(SecretOrigin::Env(name)) => match std::env::var(name) {
            Ok(value) => Ok(value),
            Err(std::env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is not UTF-8")),
        },
        Some(SecretOrigin::SecretKeyRef(reference)) => {
            of_key(reference, std::env::var_os(SECRETS_FOLDER).map(PathBuf::from))
        }
        None => Err("it has not exactly one of value, env and secretKeyRef".to_owned()),
    }
}

fn of_key(reference: &SecretKeyRef, folder: Option<PathBuf>) -> Result<String, String> {
    let SecretKeyRef { name, key } = reference;
    let Some(folder) = folder else {
        return Err(format!(
            "the Secret `{name}` is in the cluster; for a local run use `env`, or set {SECRETS_FOLDER} to a folder with \
             `{name}/{key}`"
        ));
    };
    let file = folder.join(name).join(key);
    let read = std::fs::read_to_string(&file);
    // Editors end files with a line break, and no password does.
    read.map(|value| value.trim_end_matches(['\n', '\r']).to_owned())
        .map_err(|error| format!("cannot read `{}`: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_mounted_secret() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("db/url"), "postgres://x\n").unwrap();
        let reference = |key: &str| SecretKeyRef { name: "db".into(), key: key.into() };
        assert_eq!(of_key(&reference("url"), Some(folder.path().to_owned())).unwrap(), "postgres://x");
        assert!(of_key(&reference("uri"), Some(folder.path().to_owned())).unwrap_err().contains("db/uri"));
        assert!(of_key(&reference("url"), None).unwrap_err().contains("WEIR_SECRETS_DIR"));
    }
}
