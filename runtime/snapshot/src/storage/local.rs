//! Storage in a local (or mounted) folder.
//!
//! A write goes to a temporary file in the target's folder, is fsync'd, and gets its name by `rename` (replacing)
//! or `link` (only if absent); then the folder is fsync'd. A crash leaves at most a temporary file, which no
//! listing shows and `sweep_unfinished` removes.

use super::path::TEMPORARY_PREFIX;
use super::{ObjectInfo, ObjectPath, Operation, PutOutcome, Storage, StorageError, StorageErrorKind, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A folder can be pruned between its creation and the first file in it; so often is it made again.
const CREATE_ATTEMPTS: u32 = 16;

#[derive(Clone, Debug)]
pub struct LocalStorage {
    root: Arc<Path>,
    uri: Arc<str>,
}

impl LocalStorage {
    /// Opens the folder; what is written first makes it, if it isn't there.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, StorageError> {
        let root = root.as_ref();
        let failed = |error: io::Error| {
            StorageError::new(Operation::Open, format!("file://{}", root.display()), kind_of(&error), error)
        };
        let root = std::path::absolute(root).and_then(|root| resolve(&root)).map_err(failed)?;
        let uri = format!("file://{}", root.display());
        Ok(LocalStorage { root: root.into(), uri: uri.into() })
    }

    fn error(&self, operation: Operation, path: &ObjectPath, error: &io::Error) -> StorageError {
        let object = self.address(path);
        match error.kind() {
            ErrorKind::NotFound => StorageError::not_found(operation, object),
            _ => StorageError::new(operation, object, kind_of(error), error),
        }
    }

    /// Runs blocking file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        path: &ObjectPath,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let target = self.root.join(path.as_str());
        let outcome = tokio::task::spawn_blocking(move || work(&target)).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(io::Error::other(panic.to_string())));
        outcome.map_err(|error| self.error(operation, path, &error))
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        self.blocking(Operation::Put, path, move |target| {
            let mut file = TemporaryFile::create(target)?;
            file.write(&content)?;
            file.replace(target)
        })
        .await
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        self.blocking(Operation::PutIfAbsent, path, move |target| {
            let mut file = TemporaryFile::create(target)?;
            file.write(&content)?;
            file.link(target)
        })
        .await
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        let file = self.blocking(Operation::Upload, path, TemporaryFile::create).await?;
        Ok(Box::new(LocalUpload { storage: self.clone(), path: path.clone(), file: Some(file) }))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        self.blocking(Operation::Get, path, |target| fs::read(target).map(Bytes::from)).await
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let read = move |target: &Path| {
            let file = File::open(target)?;
            let actual = file.metadata()?.len();
            if offset.checked_add(length).is_none_or(|end| end > actual) {
                return Ok(Err(actual));
            }
            let mut content = vec![0; length as usize];
            file.read_exact_at(&mut content, offset)?;
            Ok(Ok(Bytes::from(content)))
        };
        match self.blocking(Operation::GetRange, path, read).await? {
            Ok(content) => Ok(content),
            Err(actual) => Err(StorageError::too_short(self.address(path), offset, length, actual)),
        }
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        let look = |target: &Path| match fs::metadata(target)? {
            metadata if metadata.is_file() => Ok(metadata.len()),
            _ => Err(ErrorKind::NotFound.into()),
        };
        self.blocking(Operation::Head, path, look).await
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let (below, start_after) = (folder.clone(), start_after.cloned());
        self.blocking(Operation::List, folder, move |target| {
            let mut found = Vec::new();
            walk(target, &below, &mut found)?;
            found.retain(|info| start_after.as_ref().is_none_or(|after| info.path > *after));
            found.sort_by(|a, b| a.path.cmp(&b.path));
            found.truncate(limit.max(1));
            Ok(found)
        })
        .await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        let root = self.root.clone();
        self.blocking(Operation::Delete, path, move |target| {
            match fs::remove_file(target) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            prune_empty_folders(target, &root);
            Ok(())
        })
        .await
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        self.blocking(Operation::Delete, folder, move |target| sweep(target, older_than)).await
    }
}

/// A file without its final name; removed when dropped without having got one.
struct TemporaryFile {
    path: PathBuf,
    file: File,
}

impl TemporaryFile {
    fn create(target: &Path) -> io::Result<Self> {
        let parent = parent_of(target)?;
        let path = parent.join(format!("{TEMPORARY_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        for _ in 0..CREATE_ATTEMPTS {
            create_folders(parent)?;
            match File::create_new(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => return other.map(|file| TemporaryFile { path, file }),
            }
        }
        Err(io::Error::other(format!("the folder {} is removed as often as it is made", parent.display())))
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)
    }

    fn replace(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        sync_folder(parent_of(target)?)
    }

    fn link(self, target: &Path) -> io::Result<PutOutcome> {
        self.file.sync_all()?;
        let outcome = match fs::hard_link(&self.path, target) {
            Ok(()) => PutOutcome::Created,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => PutOutcome::Exists,
            Err(error) => return Err(error),
        };
        // Also for `Exists`: whoever acts on it must not find the object gone after a power failure.
        sync_folder(parent_of(target)?)?;
        Ok(outcome)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after a link this takes the second name away.
        let _ = fs::remove_file(&self.path);
    }
}

struct LocalUpload {
    storage: LocalStorage,
    path: ObjectPath,
    file: Option<TemporaryFile>,
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        let mut file = self.file.take().ok_or_else(|| {
            let object = self.storage.address(&self.path);
            StorageError::new(Operation::Upload, object, StorageErrorKind::Permanent, "an earlier part failed")
        })?;
        let write = move |_: &Path| file.write(&part).map(|()| file);
        self.file = Some(self.storage.blocking(Operation::Upload, &self.path, write).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        let file = self.file.take().ok_or_else(|| {
            let object = self.storage.address(&self.path);
            StorageError::new(Operation::Upload, object, StorageErrorKind::Permanent, "a part failed")
        })?;
        self.storage.blocking(Operation::Upload, &self.path, move |target| file.replace(target)).await
    }
}

fn kind_of(error: &io::Error) -> StorageErrorKind {
    match error.kind() {
        ErrorKind::NotFound => StorageErrorKind::NotFound,
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::ResourceBusy => {
            StorageErrorKind::Transient
        }
        _ => StorageErrorKind::Permanent,
    }
}

/// The path without links, also of a folder that isn't there yet: it is the same once it is.
fn resolve(folder: &Path) -> io::Result<PathBuf> {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == ErrorKind::NotFound => {
            Ok(resolve(parent)?.join(name))
        }
        (resolved, ..) => resolved,
    }
}

fn parent_of(target: &Path) -> io::Result<&Path> {
    target.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path has no parent folder"))
}

/// Makes the folder and those above it, each durable in its parent.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folders(parent)?;
        match fs::create_dir(folder) {
            Ok(()) => sync_folder(parent),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            // The parent was pruned meanwhile: `TemporaryFile::create` begins again.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    } else {
        fs::create_dir_all(folder)
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Lists files under `target`, whose path is `folder`; temporary files and what isn't a valid name are left out.
fn walk(target: &Path, folder: &ObjectPath, found: &mut Vec<ObjectInfo>) -> io::Result<()> {
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        // Not there, pruned meanwhile, or the name of an object: a folder without objects.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(path) = name.to_str().and_then(|name| folder.child(name).ok()) else { continue };
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        if metadata.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else if metadata.is_file() {
            found.push(ObjectInfo { path, length: metadata.len() });
        }
    }
    Ok(())
}

fn sweep(target: &Path, older_than: Duration) -> io::Result<u64> {
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            swept += sweep(&entry.path(), older_than)?;
        } else if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX)) {
            // A clock that went backwards gives no age, and the file stays for the next sweep.
            let old = metadata.modified()?.elapsed().is_ok_and(|age| age >= older_than);
            if old && fs::remove_file(entry.path()).is_ok() {
                swept += 1;
            }
        }
    }
    Ok(swept)
}

/// Object stores have no folders: one whose last object went should not stay either.
fn prune_empty_folders(target: &Path, root: &Path) {
    let mut folder = target.parent();
    while let Some(candidate) = folder.filter(|folder| *folder != root && folder.starts_with(root)) {
        if fs::remove_dir(candidate).is_err() {
            return;
        }
        folder = candidate.parent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(LocalStorage::open(folder.path()).unwrap());
        super::super::conformance::check(storage.clone()).await;
        super::super::conformance::check_sizes(storage).await;
    }

    #[tokio::test]
    async fn leftovers_are_not_listed_and_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        let path = ObjectPath::parse("job/a").unwrap();
        storage.put(&path, Bytes::from_static(b"1")).await.unwrap();
        fs::write(folder.path().join("job/.weir-tmp-left"), b"half").unwrap();

        let listed = storage.list(&ObjectPath::root(), None, 10).await.unwrap();
        assert_eq!(listed, [ObjectInfo { path, length: 1 }]);
        let root = ObjectPath::root();
        assert_eq!(storage.sweep_unfinished(&root, Duration::from_secs(3600)).await.unwrap(), 0, "too young");
        assert_eq!(storage.sweep_unfinished(&root, Duration::ZERO).await.unwrap(), 1);
        assert!(!folder.path().join("job/.weir-tmp-left").exists());
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        let mut upload = storage.upload(&ObjectPath::parse("job/big").unwrap()).await.unwrap();
        upload.write(Bytes::from_static(b"part")).await.unwrap();
        drop(upload);
        assert_eq!(fs::read_dir(folder.path().join("job")).unwrap().count(), 0);
    }

    /// An address with a mistake in it leaves no folders.
    #[tokio::test]
    async fn only_what_is_written_makes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("not/there");
        let storage = LocalStorage::open(&root).unwrap();
        let path = ObjectPath::parse("job/a").unwrap();
        assert!(storage.list(&ObjectPath::root(), None, 10).await.unwrap().is_empty());
        assert!(storage.get(&path).await.unwrap_err().is_not_found());
        storage.delete(&path).await.unwrap();
        storage.sweep_unfinished(&ObjectPath::root(), Duration::ZERO).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        storage.put(&path, Bytes::from_static(b"1")).await.unwrap();
        let opened_again = LocalStorage::open(&root).unwrap();
        assert_eq!(opened_again.get(&path).await.unwrap(), "1");
        assert_eq!(opened_again.uri(), storage.uri());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let error = LocalStorage::open(folder.path().join("file/below")).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
