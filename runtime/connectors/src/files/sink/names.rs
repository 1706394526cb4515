//! Names of a sink's files, hidden and finished.

use crate::api::CommitterContext;
use std::path::{Path, PathBuf};
use weir_model::Epoch;

/// What the hidden files of one job's sink begin with. The parts are escaped and end with `~`, so that no
/// sink's prefix is the beginning of another's.
pub(super) fn hidden_prefix(context: &CommitterContext) -> String {
    format!(".weir~{}~{}~", escaped(&context.job_uid), escaped(&context.name))
}

pub(super) fn hidden(prefix: &str, epoch: Epoch, finished: &str) -> String {
    format!("{prefix}e{epoch}~{finished}.inprogress")
}

/// The epoch of the coordinator whose tasks wrote a hidden file of the sink with this prefix. None: it is none of those.
pub(super) fn epoch_of_hidden(prefix: &str, hidden: &str) -> Option<Epoch> {
    let (epoch, _finished) = hidden.strip_prefix(prefix)?.strip_prefix('e')?.split_once('~')?;
    epoch.parse().ok().map(Epoch)
}

/// What a hidden file is called once it is finished. None: it is no hidden file of a sink.
pub(super) fn finished_of_hidden(hidden: &Path) -> Option<PathBuf> {
    let name = hidden.file_name()?.to_str()?.strip_prefix(".weir~")?.strip_suffix(".inprogress")?;
    let [_job, _sink, _epoch, finished] = name.split('~').collect::<Vec<_>>()[..] else { return None };
    Some(hidden.with_file_name(finished))
}

/// Unique over all attempts, because the attempt is part of it.
pub(super) fn finished(subtask: u32, attempt: &str, counter: u64, extension: &str) -> String {
    format!("part-{subtask:05}-{}-{counter:05}.{extension}", escaped(attempt))
}

/// Letters, digits, `-`, `_` and `.` as they are, all else as `%XX`.
pub(super) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Appends one partition value as Hive writes it in a folder's name.
pub(super) fn write_partition_value(value: &[u8], out: &mut String) {
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '/'
            | '\\'
            | ':'
            | '='
            | '%'
            | '"'
            | '#'
            | '\''
            | '?'
            | '*'
            | '['
            | ']'
            | '{'
            | '}'
            | '^'
            | '\0'..='\x1f'
            | '\x7f' => out.push_str(&format!("%{:02X}", character as u32)),
            plain => out.push(plain),
        }
    }
}

/// The folder of rows whose partition column is NULL or empty text.
pub(super) const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sinks_prefix_begins_anothers() {
        let prefix = |uid: &str, name: &str| {
            hidden_prefix(&CommitterContext { job_uid: uid.into(), name: name.into(), epoch: Epoch(2) })
        };
        assert_eq!(prefix("u-1", "out"), ".weir~u-1~out~");
        let finished_name = finished(3, "2-1", 7, "jsonl");
        let hidden = hidden(&prefix("u-1", "out"), Epoch(2), &finished_name);
        assert_eq!(epoch_of_hidden(&prefix("u-1", "out"), &hidden), Some(Epoch(2)));
        assert_eq!(epoch_of_hidden(&prefix("u-1", "o"), &hidden), None);
        let path = Path::new("/out").join(hidden);
        assert_eq!(finished_of_hidden(&path), Some(Path::new("/out").join(&finished_name)));
        assert!(!prefix("u", "out-2").starts_with(&prefix("u", "out")));
        assert!(!prefix("u", "a~b").starts_with(&prefix("u", "a")));
        assert_eq!(finished(3, "2-1", 7, "jsonl"), "part-00003-2-1-00007.jsonl");
    }

    #[test]
    fn partition_values() {
        let mut out = String::new();
        write_partition_value("a/b=ü 1".as_bytes(), &mut out);
        assert_eq!(out, "a%2Fb%3Dü 1");
    }
}
