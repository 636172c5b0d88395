//! Going through a GRUB configuration: variables, searches, menu entries, load commands.

use std::collections::HashMap;
use std::rc::Rc;

use super::syntax::{self, Piece, Statement, Word};
use super::{Devices, GrubError, Place, condition, find, parent};
use crate::boot::guestfs::entries::{bls, grubenv};

/// What going through a configuration may cost, over all files: a statement costs 1.
const MAX_COST: u32 = 100_000;
/// What a command costs that looks at the disk.
const DISK_COST: u32 = 50;
/// Bytes of expanded words that cost 1.
const BYTES_PER_COST: usize = 1024;
/// Configuration files that name further ones, one below the other.
const MAX_FILES_DEEP: u32 = 5;
/// Configuration files read in all.
const MAX_FILES: u32 = 64;
/// Entries in one menu.
pub(super) const MAX_ENTRIES: usize = 2048;
/// Longest value of a variable, and longest expanded command, in bytes: far beyond any command
/// line, and short enough that values made of values do not grow without end.
pub(super) const MAX_TEXT: usize = 64 * 1024;
/// Variables kept.
const MAX_VARIABLES: usize = 4096;

/// An entry of a menu.
#[derive(Clone, Debug)]
pub struct Item {
    /// Title shown.
    pub title: String,
    /// `--id`; empty where there is none.
    pub id: String,
    /// What is behind it.
    pub action: Action,
    /// The configuration file that listed it.
    pub config: Place,
}

/// What is behind a menu entry.
#[derive(Clone, Debug)]
pub enum Action {
    /// Commands that load a kernel.
    Commands(Rc<Vec<Statement>>),
    /// Commands that list further entries.
    Submenu(Rc<Vec<Statement>>),
    /// A Boot Loader Specification entry on this device.
    Bls(Box<bls::Entry>, String),
}

/// What `linux` and `initrd` asked for.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel.
    pub kernel: Place,
    /// The initial ramdisks.
    pub initrds: Vec<Place>,
    /// The command line, `BOOT_IMAGE` in front.
    pub cmdline: String,
}

/// Whether a file adds to the menu or replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Menu {
    /// `configfile`: what it lists is the menu.
    New,
    /// `source`: what it lists comes after what is there.
    Same,
}

/// A configuration being gone through.
pub struct Run<'d> {
    pub(super) devices: &'d mut dyn Devices,
    variables: HashMap<String, String>,
    /// Entries listed so far.
    pub items: Vec<Item>,
    /// What an entry's commands loaded.
    pub kernel: Option<Kernel>,
    /// The configuration file being gone through.
    pub(super) config: Place,
    in_entry: bool,
    left: u32,
    files: u32,
    depth: u32,
}

impl<'d> Run<'d> {
    /// Before the first statement: the variables that GRUB's core sets.
    pub fn new(devices: &'d mut dyn Devices, config: &Place) -> Self {
        let directory = format!("({}){}", config.device, parent(&config.path));
        let known = [
            ("root", config.device.as_str()),
            ("prefix", &directory),
            ("config_directory", &directory),
            ("grub_platform", "pc"),
            ("grub_cpu", "i386"),
            ("feature_menuentry_id", "y"),
            ("feature_menuentry_options", "y"),
            ("feature_platform_search_hint", "y"),
            ("feature_default_font_path", "y"),
            ("feature_all_video_module", "y"),
            ("feature_timeout_style", "y"),
            ("feature_nativedisk_cmd", "y"),
            ("feature_200_final", "y"),
        ];
        let variables =
            known.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Run {
            devices,
            variables,
            items: Vec::new(),
            kernel: None,
            config: config.clone(),
            in_entry: false,
            left: MAX_COST,
            files: MAX_FILES,
            depth: 0,
        }
    }

    /// A variable's value; empty where it is not set.
    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    fn set(&mut self, name: &str, value: String) {
        let is_known = self.variables.contains_key(name);
        if value.len() <= MAX_TEXT && (is_known || self.variables.len() < MAX_VARIABLES) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// Goes through a configuration file. A file that is not there changes nothing.
    ///
    /// # Errors
    /// [`GrubError::Limit`].
    pub fn file(&mut self, place: &Place, menu: Menu) -> Result<(), GrubError> {
        if self.depth == MAX_FILES_DEEP || self.files == 0 {
            return Err(GrubError::Limit(format!(
                "names too many further files, {place} the last"
            )));
        }
        let Some(text) = self.devices.read(place) else { return Ok(()) };
        let outer = std::mem::replace(&mut self.config, place.clone());
        if menu == Menu::New {
            let directory = format!("({}){}", place.device, parent(&place.path));
            self.set("config_directory", directory);
            self.set("config_file", place.to_string());
            self.items.clear();
        }
        self.files -= 1;
        self.depth += 1;
        self.script(&String::from_utf8_lossy(&text))?;
        self.depth -= 1;
        if menu == Menu::Same {
            self.config = outer;
        }
        Ok(())
    }

    /// Goes through the text of a configuration.
    ///
    /// # Errors
    /// [`GrubError::Limit`].
    pub fn script(&mut self, text: &str) -> Result<(), GrubError> {
        let statements = syntax::parse(text)
            .map_err(|error| GrubError::Limit(format!("cannot be followed: {error}")))?;
        self.statements(&statements)?;
        Ok(())
    }

    /// Goes through the commands of an entry, and leaves what they load in `kernel`.
    ///
    /// # Errors
    /// [`GrubError::Limit`].
    pub fn entry(&mut self, item: &Item) -> Result<(), GrubError> {
        self.in_entry = true;
        self.config = item.config.clone();
        match &item.action {
            Action::Commands(commands) => {
                self.set("chosen", item.title.clone());
                self.statements(commands)?;
                Ok(())
            }
            Action::Bls(entry, device) => {
                self.bls(entry, device);
                Ok(())
            }
            Action::Submenu(_) => Ok(()),
        }
    }

    /// The entries of a submenu that `config` lists.
    ///
    /// # Errors
    /// [`GrubError::Limit`].
    pub fn submenu(
        &mut self,
        config: &Place,
        commands: &[Statement],
    ) -> Result<Vec<Item>, GrubError> {
        self.items.clear();
        self.config = config.clone();
        self.statements(commands)?;
        Ok(std::mem::take(&mut self.items))
    }

    /// Goes through statements; the truth of the last one.
    fn statements(&mut self, statements: &[Statement]) -> Result<bool, GrubError> {
        let mut truth = true;
        for statement in statements {
            self.pay(1)?;
            truth = match statement {
                Statement::Command { words, block } => self.command(words, block.as_deref())?,
                Statement::If { branches, otherwise } => self.branch(branches, otherwise)?,
            };
        }
        Ok(truth)
    }

    fn pay(&mut self, cost: u32) -> Result<(), GrubError> {
        let left = self.left.checked_sub(cost);
        self.left = left.ok_or_else(|| GrubError::Limit("does not come to an end".into()))?;
        Ok(())
    }

    fn branch(
        &mut self,
        branches: &[(Vec<Statement>, Vec<Statement>)],
        otherwise: &[Statement],
    ) -> Result<bool, GrubError> {
        let mut taken = otherwise;
        for (condition, body) in branches {
            if self.statements(condition)? {
                taken = body;
                break;
            }
        }
        if self.in_entry && has_command(taken, "linux") && !has_command(taken, "initrd") {
            // The attempt without a ramdisk, with the one that has it beside it.
            let mut bodies = branches.iter().map(|(_, body)| body.as_slice()).chain([otherwise]);
            let whole =
                bodies.find(|body| has_command(body, "linux") && has_command(body, "initrd"));
            taken = whole.unwrap_or(taken);
        }
        self.statements(taken)
    }

    fn command(&mut self, words: &[Word], block: Option<&[Statement]>) -> Result<bool, GrubError> {
        let words = self.expand(words);
        let Some((name, args)) = words.split_first() else { return Ok(true) };
        let len: usize = words.iter().map(String::len).sum();
        self.pay((len / BYTES_PER_COST) as u32)?;
        if looks_at_disk(name) {
            self.pay(DISK_COST)?;
        }
        match name.as_str() {
            "set" => args.iter().for_each(|arg| self.assign(arg)),
            "unset" => args.iter().for_each(|arg| {
                self.variables.remove(arg);
            }),
            "load_env" => self.load_env(args),
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" => {
                return Ok(self.search(name, args));
            }
            "[" => {
                let args = args.strip_suffix(&["]".to_owned()]).unwrap_or(args);
                return Ok(self.test(args));
            }
            "test" => return Ok(self.test(args)),
            "menuentry" | "submenu" => self.list_entry(name == "submenu", args, block),
            "blscfg" => self.list_bls(args.first().map(String::as_str)),
            "source" | "." | "configfile" | "normal" => {
                let Some(path) = args.first() else { return Ok(true) };
                let menu =
                    if matches!(name.as_str(), "source" | ".") { Menu::Same } else { Menu::New };
                let place = self.place(path);
                let is_there = self.devices.exists(&place);
                if is_there {
                    self.file(&place, menu)?;
                }
                return Ok(is_there);
            }
            "linux" | "linux16" | "linuxefi" => self.linux(args),
            "initrd" | "initrd16" | "initrdefi" => self.initrd(args),
            // What asks for a key, for other firmware, or says no.
            "false" | "keystatus" | "fwsetup" => return Ok(false),
            name if name.contains('=') => self.assign(name),
            _ => {}
        }
        Ok(true)
    }

    /// Expands words: variables to their values, unquoted ones split at white space.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut expanded = Vec::new();
        let mut total = 0_usize;
        for word in words {
            let mut current: Option<String> = None;
            for piece in word {
                let (value, is_split) = match piece {
                    Piece::Text { text, .. } => (text.as_str(), false),
                    Piece::Variable { name, quoted } => (self.variable(name), !quoted),
                };
                total = total.saturating_add(value.len());
                if total > MAX_TEXT {
                    return expanded;
                }
                if !is_split {
                    current.get_or_insert_default().push_str(value);
                    continue;
                }
                let mut parts = value.split_whitespace().peekable();
                if value.starts_with(char::is_whitespace) {
                    expanded.extend(current.take());
                }
                while let Some(part) = parts.next() {
                    current.get_or_insert_default().push_str(part);
                    if parts.peek().is_some() || value.ends_with(char::is_whitespace) {
                        expanded.extend(current.take());
                    }
                }
            }
            expanded.extend(current);
        }
        expanded
    }

    fn assign(&mut self, assignment: &str) {
        if let Some((name, value)) = assignment.split_once('=') {
            self.set(name, value.to_owned());
        }
    }

    /// A path as GRUB writes it, `(device)/path` or relative to `$root`.
    pub(super) fn place(&self, path: &str) -> Place {
        let inside = path.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let (device, path) = match inside {
            Some(("", path)) => (self.variable("root"), path),
            Some((device, path)) => (device, path),
            None => (self.variable("root"), path),
        };
        Place { device: device.to_owned(), path: path.to_owned() }
    }

    fn test(&mut self, args: &[String]) -> bool {
        condition::test(args, &mut |path| {
            let place = self.place(path);
            self.devices.exists(&place)
        })
    }

    fn load_env(&mut self, args: &[String]) {
        let (mut file, mut names) = (None, Vec::new());
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-f" | "--file" => file = args.next().cloned(),
                arg => match arg.strip_prefix("--file=") {
                    Some(path) => file = Some(path.to_owned()),
                    None if arg.starts_with('-') => {}
                    None => names.push(arg),
                },
            }
        }
        let path = file.unwrap_or_else(|| format!("{}/grubenv", self.variable("prefix")));
        let Some(block) = self.devices.read(&self.place(&path)) else { return };
        for (name, value) in grubenv::parse(&block) {
            if names.is_empty() || names.contains(&name.as_str()) {
                self.set(&name, value);
            }
        }
    }

    fn search(&mut self, name: &str, args: &[String]) -> bool {
        let Some(wanted) = find::Wanted::parse(name, args) else { return false };
        let found = self.devices.search(wanted.by, &wanted.value);
        let is_found = found.is_some();
        if let (Some(variable), Some(device)) = (wanted.variable, found) {
            self.set(&variable, device);
        }
        is_found
    }

    fn list_entry(&mut self, is_submenu: bool, args: &[String], block: Option<&[Statement]>) {
        let Some(block) = block else { return };
        if self.items.len() == MAX_ENTRIES || self.in_entry {
            return;
        }
        let (mut title, mut id) = (None, String::new());
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--id" => id = args.next().cloned().unwrap_or_default(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    args.next();
                }
                arg => match arg.strip_prefix("--id=") {
                    Some(value) => id = value.to_owned(),
                    None if arg.starts_with("--") => {}
                    None if title.is_none() => title = Some(arg.to_owned()),
                    None => {}
                },
            }
        }
        let commands = Rc::new(block.to_vec());
        let action =
            if is_submenu { Action::Submenu(commands) } else { Action::Commands(commands) };
        let title = title.unwrap_or_default();
        self.items.push(Item { title, id, action, config: self.config.clone() });
    }

    fn linux(&mut self, args: &[String]) {
        // Options of the command itself come first.
        let args: Vec<&String> = args.iter().skip_while(|arg| arg.starts_with("--")).collect();
        let Some((kernel, rest)) = args.split_first() else { return };
        let mut cmdline = format!("BOOT_IMAGE={kernel}");
        for arg in rest {
            cmdline.push(' ');
            cmdline.push_str(&quoted(arg));
        }
        self.kernel = Some(Kernel { kernel: self.place(kernel), initrds: Vec::new(), cmdline });
    }

    fn initrd(&mut self, args: &[String]) {
        let files = args.iter().filter(|arg| !arg.starts_with("--"));
        let initrds: Vec<Place> = files.map(|path| self.place(path)).collect();
        if let Some(kernel) = &mut self.kernel {
            kernel.initrds = initrds;
        }
    }
}

/// The command may read from the disk.
fn looks_at_disk(name: &str) -> bool {
    name.starts_with("search")
        || matches!(name, "[" | "test" | "load_env" | "source" | "." | "configfile" | "blscfg")
}

/// A word as GRUB puts it on a kernel's command line.
fn quoted(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for c in word.chars() {
        if matches!(c, '\\' | '\'' | '"') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    if word.contains(' ') { format!("\"{escaped}\"") } else { escaped }
}

/// A `linux` or `initrd` command, in any of its spellings, is in these statements.
fn has_command(statements: &[Statement], stem: &str) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::Command { words, .. } => match words.first().map(Vec::as_slice) {
            Some([Piece::Text { text, .. }]) => {
                text.strip_prefix(stem).is_some_and(|rest| matches!(rest, "" | "16" | "efi"))
            }
            _ => false,
        },
        Statement::If { branches, otherwise } => {
            let mut bodies = branches.iter().map(|(_, body)| body.as_slice()).chain([&**otherwise]);
            bodies.any(|body| has_command(body, stem))
        }
    })
}
