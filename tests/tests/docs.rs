//! The documentation, as far as a machine can judge it: links lead somewhere, and messages that it
//! explains are messages of the program.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use berth_tests::tree::{files, root};

/// Every page for people: its path in the clone, and its text.
fn pages() -> Vec<(String, String)> {
    let mut pages = files(&["md"]);
    pages.retain(|(path, _)| path.starts_with("docs/") || path.ends_with("README.md"));
    pages
}

/// What a heading is called in a link: lower case, words joined by hyphens, no other signs.
fn anchors(text: &str) -> HashSet<String> {
    let mut fenced = false;
    let mut found = HashSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let Some(title) = line.strip_prefix('#').filter(|_| !fenced) else { continue };
        let title = title.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut complaints = Vec::new();
    let mut seen = 0;
    for (page, text) in pages() {
        let page = root().join(page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a directory").join(file),
            };
            let there = match anchor {
                "" => target.exists(),
                anchor => {
                    fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor))
                }
            };
            if !there {
                complaints.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} links");
    assert!(complaints.is_empty(), "these lead nowhere:\n  {}", complaints.join("\n  "));
}

/// All sources of the programs, with strings that are written over several lines joined.
fn sources() -> String {
    let mut all = String::new();
    for (path, text) in files(&["rs"]) {
        if ["launcher/src", "vmm/src", "devices/src"]
            .iter()
            .any(|part| Path::new(&path).starts_with(part))
        {
            let mut parts = text.split("\\\n");
            all.push_str(parts.next().unwrap_or_default());
            parts.for_each(|part| all.push_str(part.trim_start()));
        }
    }
    all
}

#[test]
fn messages_that_are_explained_are_the_program_s() {
    let sources = sources();
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let (mut complaints, mut seen) = (Vec::new(), 0);
    for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
        let column = row.split(" | ").next().unwrap_or_default();
        // In backticks: every other part.
        for message in format!("`{column}").split('`').skip(1).step_by(2) {
            seen += 1;
            let known = message.split("...").all(|part| sources.contains(part.trim()));
            if !known {
                complaints.push(message.to_owned());
            }
        }
    }
    assert!(seen > 10, "only {seen} messages");
    assert!(complaints.is_empty(), "nobody says so:\n  {}", complaints.join("\n  "));
}
