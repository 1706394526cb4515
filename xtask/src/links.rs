//! Links between the project's own Markdown files: each leads to a file that is there, and to a heading of it.

use std::collections::{BTreeMap, BTreeSet};

/// Links that lead nowhere, of files by their paths in the checkout. `is_there`: a file or folder of that path is.
pub fn broken(files: &BTreeMap<String, String>, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&str, BTreeSet<String>> =
        files.iter().map(|(name, text)| (name.as_str(), anchors(text))).collect();
    let mut findings = Vec::new();
    for (name, text) in files {
        for (number, link) in prose(text).flat_map(|(number, line)| links(line).map(move |link| (number, link))) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { name.clone() } else { join(name, path) };
            if !is_there(&target) {
                findings.push(format!("{name}:{number}: the link `{link}` leads to no file"));
            } else if !anchor.is_empty() && anchors.get(target.as_str()).is_some_and(|known| !known.contains(anchor)) {
                findings.push(format!("{name}:{number}: the link `{link}` leads to no heading of {target}"));
            }
        }
    }
    findings
}

/// Lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// What stands in `](...)`, but for addresses on the web.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace))
}

/// As forges make them of headings: lower case, hyphens for blanks, nothing else but letters, digits and `_`; the second
/// of a name ends with `-1`.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let heading = without_links(line.trim_start_matches('#').trim());
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).collect::<String>();
        let name = kept.replace(' ', "-");
        let numbered = (1..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|one| !found.contains(one));
        found.extend(free);
    }
    found
}

/// A link's text in the place of the link.
fn without_links(heading: &str) -> String {
    let mut parts = heading.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    text.replace('[', "")
}

fn join(from: &str, path: &str) -> String {
    let mut folders: Vec<&str> = from.split('/').collect();
    folders.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(folders.pop()),
            name => folders.push(name),
        }
    }
    folders.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_somewhere() {
        let page = "# A `b` c!\n## Twice\n## Twice\n## See [that](b.md)\n```\n# not a heading\n[no](link.md)\n```\n";
        let rows = [
            ("[x](a.md) [y](./a.md#a-b-c) [z](../docs/a.md#twice-1)", None),
            ("[x](#here) [y](a.md#see-that) [z](https://example.com/none.md#x) f[0](x y)", None),
            ("[x](..) [y](../src/main.rs#L3)", None),
            ("[x](c.md)", Some("docs/b.md:2: the link `c.md` leads to no file")),
            ("[x](a.md) [y](a.md#not-a-heading)", Some("leads to no heading of docs/a.md")),
            ("[x](a.md#twice-2)", Some("no heading")),
            ("[x](#there)", Some("no heading of docs/b.md")),
        ];
        for (line, expected) in rows {
            let files = [("docs/a.md", page.to_owned()), ("docs/b.md", format!("# Here\n{line}\n"))];
            let files: BTreeMap<String, String> = files.map(|(name, text)| (name.to_owned(), text)).into();
            let found = broken(&files, |path| ["", "src/main.rs"].contains(&path) || files.contains_key(path));
            match expected {
                None => assert_eq!(found, [""; 0], "{line}"),
                Some(part) => assert!(found.len() == 1 && found[0].contains(part), "{line}: {found:?}"),
            }
        }
    }
}
