//! The arguments of `search` and of its older forms.
//!
//! GRUB manual §16.3 `search`: what to look for, and the variable that gets the device. Hints do
//! not matter here: there is one disk.

use super::SearchBy;

/// What a `search` wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it goes by.
    pub by: SearchBy,
    /// The variable to set, if any.
    pub variable: Option<String>,
    /// The UUID, label or path.
    pub value: String,
}

impl Wanted {
    /// Reads the arguments of the command `name`; `None` where they name nothing.
    pub fn parse(name: &str, args: &[String]) -> Option<Self> {
        let dotted = match name {
            "search.fs_uuid" => Some(SearchBy::Uuid),
            "search.fs_label" => Some(SearchBy::Label),
            "search.file" => Some(SearchBy::File),
            _ => None,
        };
        let (mut by, mut variable, mut has_set) = (SearchBy::File, None, false);
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
        let root = || "root".to_owned();
        if let Some(by) = dotted {
            // search.fs_uuid UUID [VARIABLE [HINT]]
            let value = plain.next()?;
            return Some(Wanted { by, variable: Some(plain.next().unwrap_or_else(root)), value });
        }
        if has_set && variable.is_none() {
            // search --set [VARIABLE] NAME
            variable = if plain.len() > 1 { plain.next() } else { Some(root()) };
        }
        Some(Wanted { by, variable, value: plain.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(SearchBy, Option<String>, String)> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let wanted = Wanted::parse(&words[0], &words[1..])?;
        Some((wanted.by, wanted.variable, wanted.value))
    }

    #[test]
    fn every_way_of_writing_it() {
        let some = |by, variable: &str| Some((by, Some(variable.to_owned()), "x".to_owned()));
        let uuid = some(SearchBy::Uuid, "root");
        assert_eq!(parsed("search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt1 x"), uuid);
        assert_eq!(parsed("search --fs-uuid --set root x"), uuid);
        assert_eq!(parsed("search -u -s x"), uuid);
        assert_eq!(parsed("search.fs_uuid x root hd0,gpt1"), uuid);
        assert_eq!(parsed("search --hint hd0 -l --set=a x"), some(SearchBy::Label, "a"));
        assert_eq!(parsed("search.fs_label x b"), some(SearchBy::Label, "b"));
        assert_eq!(parsed("search.file x"), some(SearchBy::File, "root"));
        assert_eq!(parsed("search -f x"), Some((SearchBy::File, None, "x".to_owned())));
        assert_eq!(parsed("search --set=root"), None);
        assert_eq!(parsed("search.fs_uuid"), None);
    }
}
