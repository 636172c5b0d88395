//! Which menu entry boots by itself.
//!
//! GRUB manual §16.1.3 `default`: a number, a title or an id, or a path of those joined with `>`
//! into submenus; what names no entry means the first.

use super::run::{Action, Item, Run};
use super::{GrubError, Loaded};

/// Submenus gone down at most.
const MAX_SUBMENUS: usize = 8;

/// Boots what `default` names in the menu that `run` has listed.
pub fn boot_default(mut run: Run<'_>) -> Result<Loaded, GrubError> {
    let mut items = std::mem::take(&mut run.items);
    let default = run.variable("default").to_owned();
    let default = if default.is_empty() { "0".to_owned() } else { default };
    let mut note = format!("default={default}");
    if run.variable("boot_once") == "true" {
        note.push_str(", for this once by next_entry in grubenv");
    }
    let mut path = split(&default).into_iter();
    let mut shown = Vec::new();
    for _ in 0..MAX_SUBMENUS {
        let wanted = path.next();
        let (index, is_found) = find(&items, wanted.as_deref());
        if !is_found {
            note.push_str(", which is not in the menu");
        }
        let Some(item) = items.get(index).cloned() else { return Err(GrubError::Empty) };
        shown.push(format!("{index} '{}'", item.title));
        if let Action::Submenu(commands) = &item.action {
            items = run.submenu(&item.config, commands)?;
            continue;
        }
        run.entry(&item)?;
        let entry = format!("entry {} ({note})", shown.join(" > "));
        let Some(kernel) = run.kernel else { return Err(GrubError::NotLinux(entry)) };
        return Ok(Loaded {
            config: item.config,
            entry,
            kernel: kernel.kernel,
            initrds: kernel.initrds,
            cmdline: kernel.cmdline,
        });
    }
    Err(GrubError::Limit("has submenus in submenus without end".into()))
}

/// The parts of a path into submenus; `>>` stands for a `>` in a title.
fn split(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '>' && chars.next_if_eq(&'>').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// The entry that `wanted` names, and whether there is one.
fn find(items: &[Item], wanted: Option<&str>) -> (usize, bool) {
    let Some(wanted) = wanted.map(str::trim).filter(|wanted| !wanted.is_empty()) else {
        return (0, true);
    };
    let by_number = wanted.parse().ok().filter(|index| *index < items.len());
    let by_name = || items.iter().position(|item| item.title == wanted || item.id == wanted);
    match by_number.or_else(by_name) {
        Some(index) => (index, true),
        None => (0, false),
    }
}
