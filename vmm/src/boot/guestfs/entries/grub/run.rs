//! Going through a GRUB configuration: variables, searches, menu entries, load commands.

use std::collections::HashMap;
use std::rc::Rc;

use super::syntax::{self, Piece, Statement, Word};
use super::{Devices, GrubError, Place, SearchBy, condition, parent};
use crate::boot::guestfs::entries::{bls, grubenv};

/// Statements gone through at most, over all files.
const MAX_STATEMENTS: u32 = 100_000;
/// Configuration files that name further ones, one below the other.
const MAX_FILES_DEEP: u32 = 5;
/// Configuration files read in all.
const MAX_FILES: u32 = 64;
/// Entries in one menu.
const MAX_ENTRIES: usize = 2048;
/// Longest value of a variable, and longest expanded command, in bytes: far beyond any command
/// line, and short enough that values made of values do not grow without end.
const MAX_TEXT: usize = 64 * 1024;
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
    devices: &'d mut dyn Devices,
    variables: HashMap<String, String>,
    /// Entries listed so far.
    pub items: Vec<Item>,
    /// What an entry's commands loaded.
    pub kernel: Option<Kernel>,
    config: Place,
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
            left: MAX_STATEMENTS,
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
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| GrubError::Limit("does not come to an end".into()))?;
            truth = match statement {
                Statement::Command { words, block } => self.command(words, block.as_deref())?,
                Statement::If { branches, otherwise } => self.branch(branches, otherwise)?,
            };
        }
        Ok(truth)
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
    fn place(&self, path: &str) -> Place {
        let inside = path.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let (device, path) = match inside {
            Some(("", path)) => (self.variable("root"), path),
            Some((device, path)) => (device, path),
            None => (self.variable("root"), path),
        };
        Place { device: device.to_owned(), path: path.to_owned() }
    }

    fn test(&mut self, args: &[String]) -> bool {
        let mut paths = Vec::new();
        // Paths are looked up first, since looking one up needs the devices.
        condition::test(args, &mut |path| {
            paths.push(path.to_owned());
            false
        });
        let there: HashMap<String, bool> = paths
            .into_iter()
            .map(|path| {
                let place = self.place(&path);
                let is_there = self.devices.exists(&place);
                (path, is_there)
            })
            .collect();
        condition::test(args, &mut |path| there.get(path).copied().unwrap_or(false))
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
        let (mut by, mut variable, mut has_set) = (SearchBy::File, None, false);
        let dotted = match name {
            "search.fs_uuid" => Some(SearchBy::Uuid),
            "search.fs_label" => Some(SearchBy::Label),
            "search.file" => Some(SearchBy::File),
            _ => None,
        };
        let mut plain = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-u" | "--fs-uuid" => by = SearchBy::Uuid,
                "-l" | "--label" | "--fs-label" => by = SearchBy::Label,
                "-f" | "--file" => by = SearchBy::File,
                "-s" | "--set" => has_set = true,
                "--hint" => {
                    args.next();
                }
                arg => match arg.strip_prefix("--set=") {
                    Some(name) => (has_set, variable) = (true, Some(name.to_owned())),
                    None if arg.starts_with('-') => {}
                    None => plain.push(arg.to_owned()),
                },
            }
        }
        let mut plain = plain.into_iter();
        let value = if let Some(dotted) = dotted {
            // search.fs_uuid UUID [VARIABLE [HINT]]
            by = dotted;
            let value = plain.next();
            (has_set, variable) = (true, plain.next());
            value
        } else {
            if has_set && variable.is_none() && plain.len() > 1 {
                variable = plain.next();
            }
            plain.next()
        };
        let found = value.and_then(|value| self.devices.search(by, &value));
        let is_found = found.is_some();
        if let (true, Some(device)) = (has_set, found) {
            self.set(variable.as_deref().unwrap_or("root"), device);
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

    /// `blscfg [directory]`: lists the Boot Loader Specification entries of this system.
    fn list_bls(&mut self, directory: Option<&str>) {
        let mut places: Vec<Place> = directory.map(|path| self.place(path)).into_iter().collect();
        for device in [self.variable("boot"), self.variable("root"), &self.config.device] {
            for path in ["/loader/entries", "/boot/loader/entries"] {
                places.push(Place { device: device.to_owned(), path: path.to_owned() });
            }
        }
        for place in places.iter().filter(|place| !place.device.is_empty()) {
            let mut entries = Vec::new();
            for name in self.devices.list(place) {
                let file =
                    Place { device: place.device.clone(), path: format!("{}/{name}", place.path) };
                let text = name.ends_with(".conf").then(|| self.devices.read(&file)).flatten();
                let text = text.unwrap_or_default();
                entries.extend(bls::Entry::parse(&name, &String::from_utf8_lossy(&text)));
            }
            if entries.is_empty() {
                continue;
            }
            bls::sort_for_grub(&mut entries);
            for entry in entries.into_iter().take(MAX_ENTRIES - self.items.len().min(MAX_ENTRIES)) {
                self.items.push(Item {
                    title: entry.title.clone(),
                    id: entry.id.clone(),
                    action: Action::Bls(Box::new(entry), place.device.clone()),
                    config: self.config.clone(),
                });
            }
            return;
        }
    }

    /// What a Boot Loader Specification entry on `device` loads.
    fn bls(&mut self, entry: &bls::Entry, device: &str) {
        let on_device = |path: &str| {
            if path.starts_with('(') { path.to_owned() } else { format!("({device}){path}") }
        };
        let kernel = on_device(&entry.linux);
        let options = self.expand_text(&entry.options);
        let words = options.split_whitespace().collect::<Vec<_>>().join(" ");
        let initrds = self.expand_text(&entry.initrds.join(" "));
        self.kernel = Some(Kernel {
            kernel: self.place(&kernel),
            initrds: initrds.split_whitespace().map(|path| self.place(&on_device(path))).collect(),
            cmdline: format!("BOOT_IMAGE={kernel} {words}").trim_end().to_owned(),
        });
    }

    /// Replaces `$name` and `${name}` in free text, and nothing else.
    fn expand_text(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, next) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
                Some(braced) => braced,
                None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(self.variable(name));
            }
            rest = next;
            if expanded.len() > MAX_TEXT {
                return expanded;
            }
        }
        expanded.push_str(rest);
        expanded
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
