//! Certificates for the processes of a test, as a cluster would mount them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use weir_node::tls::{Authority, JobIdentity};

const HOUR: Duration = Duration::from_secs(3600);

pub fn authority() -> Authority {
    Authority::new(SystemTime::now() - HOUR..SystemTime::now() + HOUR).expect("make a CA")
}

/// Writes a server's certificate, its key, and the authority's: `tls.crt`, `tls.key`, `ca.crt`.
pub fn write(folder: &Path, signs: &Authority, host: &str) {
    std::fs::create_dir_all(folder).expect("create the folder");
    let issued = signs.issue(vec![host.to_owned()], SystemTime::now() - HOUR..SystemTime::now() + HOUR).expect("sign");
    for (name, text) in [("tls.crt", issued.certificate), ("tls.key", issued.key), ("ca.crt", signs.pem())] {
        std::fs::write(folder.join(name), text).expect("write a file");
    }
}

/// A folder as Kubernetes mounts a Secret: the files are links into the folder of the current version, to which one
/// link leads that is replaced all at once.
pub struct Mount {
    folder: PathBuf,
    version: AtomicU32,
}

impl Mount {
    /// With a certificate of `job` that `authority` signs and believes.
    pub fn new(folder: PathBuf, authority: &Authority, job: &str) -> Self {
        let mount = Mount { folder, version: AtomicU32::new(0) };
        std::fs::create_dir_all(&mount.folder).expect("create the folder");
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), mount.folder.join(name)).expect("link a file");
        }
        mount.replace(authority, job, &[authority]);
        mount
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub fn replace(&self, signs: &Authority, job: &str, trusted: &[&Authority]) {
        let version = format!("..{}", self.version.fetch_add(1, Ordering::Relaxed));
        let versioned = self.folder.join(&version);
        std::fs::create_dir(&versioned).expect("create a version");
        let names = vec![JobIdentity::new(job, None).dns_name()];
        let issued = signs.issue(names, SystemTime::now() - HOUR..SystemTime::now() + HOUR).expect("sign");
        let bundle: String = trusted.iter().map(|authority| authority.pem()).collect();
        for (name, text) in [("tls.crt", issued.certificate), ("tls.key", issued.key), ("ca.crt", bundle)] {
            std::fs::write(versioned.join(name), text).expect("write a file");
        }
        let (next, current) = (self.folder.join("..data_next"), self.folder.join("..data"));
        std::os::unix::fs::symlink(version, &next).expect("link the version");
        std::fs::rename(next, current).expect("move the link");
    }
}
