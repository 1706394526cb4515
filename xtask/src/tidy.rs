//! Tidiness as a test: what reviews should not have to spend words on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::links;
use crate::process::{output_of, say};

/// A Rust file beyond this wants to be several.
const MAX_RUST_LINES: usize = 800;

/// Text files by the end of their name; all others (images, golden bytes) are left alone.
const TEXT_ENDINGS: [&str; 14] = [
    ".rs",
    ".toml",
    ".md",
    ".yaml",
    ".yml",
    ".json",
    ".py",
    ".sh",
    ".sql",
    ".html",
    ".css",
    ".js",
    ".proto",
    ".gitignore",
];

/// Lock files name registries by their nature, and nobody writes them by hand.
const GENERATED: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Words that tie the repository to one machine or one package registry. Each is written in two parts, so that
/// this file does not contain it.
const FORBIDDEN: [(&str, &str, &str); 10] = [
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("crates", ".io", "a package registry's host"),
    ("pypi", ".org", "a package registry's host"),
    ("pythonhosted", ".org", "a package registry's host"),
    ("npmjs", ".", "a package registry's host"),
    ("proxy.golang", ".org", "a package registry's host"),
    ("repo1", ".maven", "a package registry's host"),
    ("repo.maven", ".apache", "a package registry's host"),
    ("maven", ".org", "a package registry's host"),
];

/// Checks every file that is tracked, or would be with the next `git add`. All findings are printed.
pub fn check(layout: &Layout) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&layout.checkout);
    let list = output_of(&mut git).ok_or_else(|| {
        Failure::new("tidy asks git for the list of files, and `git ls-files` failed; run it inside a git checkout")
    })?;
    let mut findings = Vec::new();
    let mut checked = 0;
    let mut pages = BTreeMap::new();
    for name in list.split('\0').filter(|name| is_checked(name)) {
        // A file that is deleted but not yet committed is listed, and is not there.
        let Ok(bytes) = std::fs::read(layout.checkout.join(name)) else {
            continue;
        };
        checked += 1;
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                findings.extend(examine(name, text));
                if name.ends_with(".md") {
                    pages.insert(name.to_owned(), text.to_owned());
                }
            }
            Err(error) => findings.push(format!("{name}: not UTF-8 from byte {} on", error.valid_up_to())),
        }
    }
    findings.extend(links::broken(&pages, |path| layout.checkout.join(path).exists()));
    findings.sort();
    findings.dedup();
    if findings.is_empty() {
        say(&format!("tidy: {checked} files are in order"));
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    Err(Failure::new(format!("tidy: {} findings in {checked} files, listed above", findings.len())))
}

fn is_checked(path: &str) -> bool {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path);
    let is_script = path.starts_with(".ci/");
    // Golden bytes are what a program wrote, to the last one.
    !path.contains("/fixtures/")
        && !GENERATED.contains(&name)
        && (is_script || TEXT_ENDINGS.iter().any(|ending| name.ends_with(ending)))
}

fn examine(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > MAX_RUST_LINES {
        findings.push(format!("{name}: {lines} lines, more than {MAX_RUST_LINES}; split it by what changes together"));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(format!("{name}:{lines}: no newline at the end of the file"));
    }
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(format!("{name}:{number}: whitespace at the end of the line"));
        }
        for (head, tail, kind) in FORBIDDEN {
            let word = format!("{head}{tail}");
            if mentions(line, &word) {
                findings.push(format!("{name}:{number}: `{word}` is {kind}; say it without"));
            }
        }
    }
    findings
}

/// Whether the word stands in the line; a path only as an absolute one, since `a/work/b` is nobody's machine.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !word.starts_with('/') || !before.is_some_and(|c| c.is_alphanumeric() || "._-}~*/".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(examine(name, text), expected, "{name}");
    }

    #[test]
    fn finds_what_is_untidy() {
        check("a.rs", "fn main() {}\n", &[]);
        check("a.rs", "", &[]);
        check(
            "a.md",
            "one \ntwo",
            &["a.md:2: no newline at the end of the file", "a.md:1: whitespace at the end of the line"],
        );
        check("a.md", "dos\r\n", &["a.md:1: whitespace at the end of the line"]);
    }

    #[test]
    fn limits_rust_files_alone() {
        let long = "//\n".repeat(MAX_RUST_LINES + 1);
        check("a.rs", &long, &["a.rs: 801 lines, more than 800; split it by what changes together"]);
        check("a.rs", &long[3..], &[]);
        check("a.md", &long, &[]);
    }

    #[test]
    fn forbids_paths_of_one_machine_and_registries() {
        for (head, tail, kind) in FORBIDDEN {
            let word = format!("{head}{tail}");
            check("a.md", &format!("see \"{word}x\"\n"), &[&format!("a.md:1: `{word}` is {kind}; say it without")]);
        }
        let relative = format!("runtime{}{}", "/wo", "rk/mod.rs");
        check("a.md", &format!("{relative}\n"), &[]);
    }

    #[test]
    fn checks_text_that_people_write() {
        for (path, expected) in
            [("xtask/src/main.rs", true), (".ci/run", true), ("Cargo.lock", false), ("a/golden.bin", false)]
        {
            assert_eq!(is_checked(path), expected, "{path}");
        }
    }
}
