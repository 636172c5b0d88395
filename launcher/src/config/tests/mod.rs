//! The plan that is made of settings, on a host made up for each test.

mod mistakes;
mod parts;
mod whole;

use super::*;
use crate::args::{Cli, Command};
use crate::host::MemoryLimit;
use clap::Parser;

struct Place {
    dir: tempfile::TempDir,
    host: Host,
}

impl Place {
    fn new(in_container: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            root: dir.path().to_owned(),
            in_container,
            hostname: Some("box".to_owned()),
            data_dir: Some("/home/u/.local/share".into()),
            memory: Some(MemoryLimit { bytes: 8 << 30, by_cgroup: false }),
            proxies: Default::default(),
            trust: Default::default(),
        };
        fs::write(dir.path().join("base.qcow2"), "QFI").unwrap();
        Self { dir, host }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        self.path(name)
    }

    /// `@name` stands for the path of `name` in this place.
    fn run(&self, args: &[&str]) -> Result<Plan, ConfigError> {
        let expand = |arg: &&str| match arg.strip_prefix('@') {
            Some(name) => self.path(name),
            None => (*arg).to_owned(),
        };
        let args = ["berth", "run"].iter().map(|a| (*a).to_owned()).chain(args.iter().map(expand));
        let Command::Run(run) = Cli::try_parse_from(args).unwrap().command else {
            panic!("not for run")
        };
        plan(&Layers { flags: run.settings, ..Layers::default() }, &self.host)
    }

    fn mistake(&self, args: &[&str]) -> String {
        self.run(args).unwrap_err().to_string().replace(&self.path(""), "@")
    }
}
