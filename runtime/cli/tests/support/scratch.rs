//! A folder of one test.

use std::cell::Cell;
use std::path::{Path, PathBuf};

/// A fresh folder, removed at the end unless the test fails: then it stays, and says where.
pub struct Scratch {
    folder: PathBuf,
    kept: Cell<bool>,
}

impl Scratch {
    pub fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("remove what an earlier process of this id left");
        }
        std::fs::create_dir_all(&folder).expect("create the scratch folder");
        Scratch { folder, kept: Cell::new(false) }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder where it is, for somebody to look into.
    pub fn keep(&self) -> &Path {
        self.kept.set(true);
        &self.folder
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file, with the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("create the file's folder");
        std::fs::write(&path, content).expect("write the file");
        path
    }

    /// Writes a StreamJob with this spec. JSON is YAML.
    pub fn write_job(&self, name: &str, spec: &serde_json::Value) -> PathBuf {
        let job = serde_json::json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.write(&format!("{name}.yaml"), serde_json::to_string_pretty(&job).expect("JSON is written to memory"))
    }

    /// The `file://` URI of a folder inside.
    pub fn storage_uri(&self, name: &str) -> String {
        format!("file://{}", self.join(name).display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.folder.display());
        } else if !self.kept.get() {
            // What cannot be removed lies in the build's own folder and harms nobody.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// All finished files below a folder of a file sink: all but hidden ones. Sorted.
pub fn finished_files(folder: &Path) -> Vec<PathBuf> {
    let is_hidden =
        |path: &Path| path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
    let mut files = vec![];
    collect(folder, &|path| !is_hidden(path), &mut files);
    files.sort();
    files
}

/// All files below a folder, hidden ones too. Sorted; none if there is no such folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    collect(folder, &|_| true, &mut files);
    files.sort();
    files
}

fn collect(folder: &Path, is_wanted: &dyn Fn(&Path) -> bool, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("list a folder").path()).filter(|path| is_wanted(path)) {
        if path.is_dir() {
            collect(&path, is_wanted, files);
        } else {
            files.push(path);
        }
    }
}

/// The lines of all finished files below a folder.
pub fn finished_lines(folder: &Path) -> Vec<String> {
    finished_files(folder)
        .iter()
        .flat_map(|path| {
            // A file may go between being listed and being read while a job still runs.
            std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
