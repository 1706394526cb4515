//! Faulty job files, each with what is printed about it: `tests/faulty/NAME.yaml` and `NAME.expected`.
//! `UPDATE_EXPECT=1 cargo test -p weir-crds --test diagnostics` writes the second anew; read the difference.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weir_crds::text::{check_streamjob, render};

/// Asked for while it runs: one target folder may serve several checkouts.
fn faulty() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/faulty")
}

#[test]
fn every_mistake_is_told_with_its_place_and_remedy() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut files: Vec<_> = fs::read_dir(faulty()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let jobs: Vec<_> =
        files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    assert!(jobs.len() >= 10);
    let mut different = Vec::new();
    for path in jobs {
        let yaml = fs::read_to_string(path).unwrap();
        let printed = render(&check_streamjob(&yaml).diagnostics, &yaml, "job.yaml");
        assert!(!printed.is_empty(), "nothing is wrong with {}", path.display());
        let expected_path = path.with_extension("expected");
        if update {
            fs::write(&expected_path, &printed).unwrap();
        } else if fs::read_to_string(&expected_path).unwrap_or_default() != printed {
            different.push(format!("{}:\n{printed}", name(path)));
        }
    }
    assert!(different.is_empty(), "printed something else:\n{}", different.join("\n"));
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Every prefix of real files, and every file with one byte changed: what an editor holds while somebody types.
    let mut texts = vec![include_str!("jobs/flight-delays.yaml").to_owned()];
    texts.push(fs::read_to_string(faulty().join("many.yaml")).unwrap());
    for text in texts {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)).step_by(3) {
            let prefix = &text[..end];
            render(&check_streamjob(prefix).diagnostics, prefix, "job.yaml");
        }
        for (index, replacement) in (0..text.len()).step_by(5).zip(b"{}[]:-|>'\"\t\n&*!%@ x".iter().cycle()) {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = *replacement;
            if let Ok(changed) = String::from_utf8(bytes) {
                render(&check_streamjob(&changed).diagnostics, &changed, "job.yaml");
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
