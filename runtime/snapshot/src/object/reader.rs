//! Reading segments, neighbours together.

use super::SegmentError;
use crate::folder::JobFolder;
use crate::manifest::SegmentLocation;
use crate::storage::{ObjectPath, Operation, StorageError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Segments this close are read in one request: fetching the bytes between costs less than asking twice.
const MAX_GAP_BYTES: u64 = 64 << 10;
/// No request is larger, but for a single segment: a bound for what is held for segments not yet asked for.
const MAX_RANGE_BYTES: u64 = 16 << 20;

/// Reads segments of a job's checkpoints, checking each against its checksum.
///
/// Told beforehand which segments will be read (each once), it fetches neighbours in one request and holds them until
/// they are asked for.
#[derive(Clone)]
pub struct ObjectReader {
    folder: JobFolder,
    ranges: Arc<Mutex<BTreeMap<ObjectPath, Vec<Range>>>>,
}

struct Range {
    offset: u64,
    end: u64,
    /// Planned segments that have not been read.
    remaining: usize,
    content: Arc<OnceCell<Bytes>>,
}

impl ObjectReader {
    pub fn new(folder: JobFolder) -> Self {
        ObjectReader { folder, ranges: Arc::default() }
    }

    /// Announces segments that will be read. What isn't announced can be read too, by a request of its own.
    pub fn plan(&self, segments: &[SegmentLocation]) {
        let mut of_object: BTreeMap<&ObjectPath, Vec<&SegmentLocation>> = BTreeMap::new();
        for segment in segments {
            of_object.entry(&segment.object).or_default().push(segment);
        }
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        for (object, mut segments) in of_object {
            segments.sort_by_key(|segment| segment.offset);
            ranges.entry(object.clone()).or_default().extend(coalesce(&segments));
        }
    }

    /// The segment's bytes, as they were written.
    pub async fn read(&self, segment: &SegmentLocation) -> Result<Bytes, SegmentError> {
        let path = self.folder.path(&segment.object);
        let storage = self.folder.storage();
        let bytes = match self.take_planned(segment) {
            None => storage.get_range(&path, segment.offset, segment.length).await?,
            Some((offset, length, content)) => {
                let range = content.get_or_try_init(|| storage.get_range(&path, offset, length)).await?;
                let from = (segment.offset - offset) as usize;
                range.slice(from..from + segment.length as usize)
            }
        };
        let actual = crc32c::crc32c(&bytes);
        if actual != segment.crc32c {
            return Err(SegmentError::Checksum {
                object: self.folder.describe(&segment.object),
                offset: segment.offset,
                length: segment.length,
                stated: segment.crc32c,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Reads a segment and checks it, piece by piece: it may be larger than memory.
    pub async fn verify_segment(&self, segment: &SegmentLocation) -> Result<(), SegmentError> {
        let path = self.folder.path(&segment.object);
        let (mut actual, mut done) = (0, 0);
        while done < segment.length {
            let length = MAX_RANGE_BYTES.min(segment.length - done);
            let offset = segment.offset.saturating_add(done);
            let part = self.folder.storage().get_range(&path, offset, length).await?;
            actual = crc32c::crc32c_append(actual, &part);
            done += length;
        }
        if actual != segment.crc32c {
            return Err(SegmentError::Checksum {
                object: self.folder.describe(&segment.object),
                offset: segment.offset,
                length: segment.length,
                stated: segment.crc32c,
                actual,
            });
        }
        Ok(())
    }

    /// The range that covers the segment, if one was planned. With its last segment the range is let go.
    fn take_planned(&self, segment: &SegmentLocation) -> Option<(u64, u64, Arc<OnceCell<Bytes>>)> {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let of_object = ranges.get_mut(&segment.object)?;
        let end = segment.offset.checked_add(segment.length)?;
        let index = of_object.iter().position(|range| range.offset <= segment.offset && end <= range.end)?;
        let range = &mut of_object[index];
        range.remaining -= 1;
        let found = (range.offset, range.end - range.offset, range.content.clone());
        if range.remaining == 0 {
            of_object.swap_remove(index);
        }
        Some(found)
    }

    /// Reads a whole object and checks it, for a thorough look at a checkpoint.
    pub async fn verify(&self, object: &crate::manifest::ObjectRef) -> Result<(), SegmentError> {
        let path = self.folder.path(&object.path);
        let (mut crc32c, mut offset) = (0, 0);
        let length = self.folder.storage().head(&path).await?;
        if length != object.length {
            let message = format!("it has {length} bytes, and the manifest says {}", object.length);
            return Err(StorageError::corrupt(Operation::Head, self.folder.describe(&object.path), message).into());
        }
        while offset < length {
            let part = self.folder.storage().get_range(&path, offset, MAX_RANGE_BYTES.min(length - offset)).await?;
            crc32c = crc32c::crc32c_append(crc32c, &part);
            offset += part.len() as u64;
        }
        if crc32c != object.crc32c {
            let object_name = self.folder.describe(&object.path);
            let stated = object.crc32c;
            return Err(SegmentError::Checksum { object: object_name, offset: 0, length, stated, actual: crc32c });
        }
        Ok(())
    }
}

/// Ranges that cover segments in the order of their offsets.
fn coalesce(segments: &[&SegmentLocation]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for segment in segments {
        // An end beyond all bounds can only be damage; the read of that segment will say so.
        let Some(end) = segment.offset.checked_add(segment.length) else { continue };
        match ranges.last_mut() {
            Some(last)
                if segment.offset <= last.end.saturating_add(MAX_GAP_BYTES)
                    && end.max(last.end) - last.offset <= MAX_RANGE_BYTES =>
            {
                last.end = last.end.max(end);
                last.remaining += 1;
            }
            _ => ranges.push(Range { offset: segment.offset, end, remaining: 1, content: Arc::default() }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::ObjectWriter;
    use super::*;
    use crate::storage::{Fault, FaultPlan, FaultyStorage, MemoryStorage, Storage, UPLOAD_PART_BYTES};

    fn path() -> ObjectPath {
        ObjectPath::parse("chk-1/e1-a0-worker-0.data").unwrap()
    }

    fn folder(storage: Arc<dyn Storage>) -> JobFolder {
        JobFolder::of_job(storage, "job").unwrap()
    }

    /// Appends the segments from as many threads.
    async fn write(folder: &JobFolder, segments: Vec<Vec<u8>>) -> Vec<(Vec<u8>, SegmentLocation)> {
        let (writer, upload) = ObjectWriter::new(folder.clone(), path());
        let upload = tokio::spawn(upload.run());
        let work = tokio::task::spawn_blocking(move || {
            let threads = segments.into_iter().map(|segment| {
                let writer = writer.clone();
                std::thread::spawn(move || (writer.append(&segment).unwrap(), segment))
            });
            let threads = threads.collect::<Vec<_>>();
            let written = threads.into_iter().map(|thread| thread.join().unwrap()).map(|(at, bytes)| (bytes, at));
            let written = written.collect::<Vec<_>>();
            writer.finish().unwrap();
            written
        });
        let written = work.await.unwrap();
        let object = upload.await.unwrap().unwrap().unwrap();
        ObjectReader::new(folder.clone()).verify(&object).await.unwrap();
        written
    }

    #[tokio::test]
    async fn segments_of_many_threads_are_read_back() {
        for size in [10, UPLOAD_PART_BYTES / 3, UPLOAD_PART_BYTES * 2 + 5] {
            let folder = folder(Arc::new(MemoryStorage::new()));
            let written = write(&folder, (0..8u8).map(|n| vec![n; size + n as usize]).collect()).await;
            let reader = ObjectReader::new(folder);
            reader.plan(&written[..6].iter().map(|(_, at)| at.clone()).collect::<Vec<_>>());
            for (bytes, at) in &written {
                assert_eq!(reader.read(at).await.unwrap(), bytes);
            }
            assert!(reader.ranges.lock().unwrap().values().all(Vec::is_empty), "what was read is let go");
        }
    }

    #[tokio::test]
    async fn planned_neighbours_cost_one_request() {
        let counted = FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::None);
        let folder = folder(Arc::new(counted.clone()));
        let written = write(&folder, (0..20u8).map(|n| vec![n; 100]).collect()).await;
        let reader = ObjectReader::new(folder);
        reader.plan(&written.iter().map(|(_, at)| at.clone()).collect::<Vec<_>>());
        let before = counted.calls();
        for (bytes, at) in &written {
            assert_eq!(reader.read(at).await.unwrap(), bytes);
        }
        assert_eq!(counted.calls() - before, 1);
    }

    #[tokio::test]
    async fn every_flipped_byte_is_noticed_and_the_object_named() {
        let memory = Arc::new(MemoryStorage::new());
        let folder = folder(memory.clone());
        let written = write(&folder, vec![b"some state".to_vec(), b"more".to_vec()]).await;
        let stored = folder.path(&path());
        let good = memory.get(&stored).await.unwrap();
        for byte in 0..good.len() {
            let damaged = MemoryStorage::new();
            let mut content = good.to_vec();
            content[byte] ^= 0x10;
            damaged.put(&stored, content.into()).await.unwrap();
            let reader = ObjectReader::new(JobFolder::of_job(Arc::new(damaged), "job").unwrap());
            let mut failed = 0;
            for (_, at) in &written {
                if let Err(error) = reader.read(at).await {
                    assert!(error.to_string().contains("chk-1/e1-a0-worker-0.data"), "{error}");
                    failed += 1;
                }
            }
            assert_eq!(failed, 1, "byte {byte}");
        }
    }

    #[tokio::test]
    async fn a_failed_upload_ends_its_writers() {
        let plan = FaultPlan::NthCall { number: 0, fault: Fault::Refuse };
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), plan);
        let (writer, upload) = ObjectWriter::new(folder(Arc::new(storage)), path());
        let upload = tokio::spawn(upload.run());
        let again = writer.clone();
        tokio::task::spawn_blocking(move || {
            writer.append(b"x").unwrap();
            writer.finish().unwrap();
        })
        .await
        .unwrap();
        assert!(upload.await.unwrap().is_err());
        let late = tokio::task::spawn_blocking(move || again.append(b"y")).await.unwrap();
        assert!(matches!(late, Err(SegmentError::UploadEnded(_))));
    }

    #[tokio::test]
    async fn an_object_without_segments_or_given_up_is_not_written() {
        let memory = Arc::new(MemoryStorage::new());
        let (writer, upload) = ObjectWriter::new(folder(memory.clone()), path());
        tokio::task::spawn_blocking(move || writer.finish().unwrap()).await.unwrap();
        assert_eq!(upload.run().await.unwrap(), None);
        let (writer, upload) = ObjectWriter::new(folder(memory.clone()), path());
        tokio::task::spawn_blocking(move || drop(writer.append(b"x"))).await.unwrap();
        assert_eq!(upload.run().await.unwrap(), None);
        assert!(memory.list(&ObjectPath::root(), None, 1).await.unwrap().is_empty());
    }
}
