//! A Debian kernel with an initramfs that runs one shell script, made by `tests/guest/build`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::virtual_machine::PATIENCE;
use crate::{Berth, Namespace, Report, VirtualMachine, cpio, guest_file, scratch};

/// Which of the two forms of the kernel is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The image that distributions ship, by the 64-bit Linux boot protocol.
    BzImage,
    /// The ELF file inside it, by its PVH entry.
    Elf,
}

/// A small guest, being put together.
#[must_use]
pub struct SmallGuest {
    directory: TempDir,
    kernel: Kernel,
    cpus: u32,
    memory: String,
    cmdline: String,
    job: String,
    files: Vec<(String, Vec<u8>)>,
    flags: Vec<(String, Option<String>)>,
    patience: Duration,
}

impl SmallGuest {
    /// A guest with one vCPU and 256 MiB that runs `job`, a script for busybox's sh.
    /// `tests/guest/init` says what the script finds.
    pub fn running(job: &str) -> Self {
        Self {
            directory: scratch(),
            kernel: Kernel::Elf,
            cpus: 1,
            memory: "256M".into(),
            cmdline: "console=ttyS0 quiet panic=-1".into(),
            job: job.into(),
            files: Vec::new(),
            flags: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// The form of the kernel.
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// The number of vCPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The memory, as `--memory` takes it.
    pub fn memory(mut self, memory: &str) -> Self {
        self.memory = memory.into();
        self
    }

    /// How long each wait for it may take, when it takes long.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Adds a file, in the root directory.
    pub fn file(mut self, name: &str, content: Vec<u8>) -> Self {
        self.files.push((name.into(), content));
        self
    }

    /// Adds to the kernel command line.
    pub fn cmdline(mut self, text: &str) -> Self {
        self.cmdline = format!("{} {text}", self.cmdline);
        self
    }

    /// Adds a flag of `berth run`.
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.push((name.into(), Some(value.into())));
        self
    }

    /// Adds a flag of `berth run` that takes no value.
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push((name.into(), None));
        self
    }

    /// Whether a flag of `berth run` was given.
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|(given, _)| given == name)
    }

    /// Adds a disk; `options` as in `--disk PATH,OPTIONS`.
    pub fn disk(self, path: &Path, options: &str) -> Self {
        self.flag("--disk", format!("{},{options}", path.display()))
    }

    /// Adds the disk with fio, iperf3, sockperf, ethtool, lspci, socat and dropbear; the job calls
    /// `tools` first.
    pub fn with_tools(self) -> Self {
        self.disk(&guest_file("small/tools.raw"), "format=raw,ro,serial=tools")
    }

    /// Where this guest's own files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the initramfs with the job in it, for a guest that is started by other means; in its
    /// own directory.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn initrd(&self) -> PathBuf {
        let mut archive = fs::read(guest_file("small/initramfs")).expect("the initramfs is there");
        archive.resize(archive.len().next_multiple_of(512), 0);
        let files = self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        let files: Vec<_> = [("job", self.job.as_bytes())].into_iter().chain(files).collect();
        archive.extend(cpio::archive(&files));
        let path = self.directory.path().join("initrd");
        fs::write(&path, archive).expect("the directory is writable");
        path
    }

    /// Starts it. The directory lives as long as the first value.
    ///
    /// # Panics
    /// If something it is made of is missing.
    pub fn start(self) -> (TempDir, VirtualMachine) {
        self.start_by(Berth::run())
    }

    /// [`start`](Self::start), in a network namespace.
    ///
    /// # Panics
    /// As there.
    pub fn start_inside(self, namespace: &Namespace) -> (TempDir, VirtualMachine) {
        self.start_by(Berth::run_inside(namespace))
    }

    /// [`start`](Self::start), as `berth` is begun.
    ///
    /// # Panics
    /// As there.
    pub fn start_by(self, berth: Berth) -> (TempDir, VirtualMachine) {
        let kernel = match self.kernel {
            Kernel::BzImage => "small/bzImage",
            Kernel::Elf => "small/vmlinux",
        };
        let mut berth = berth
            .patience(self.patience)
            .flag("--name", "small")
            .flag("--kernel", guest_file(kernel))
            .flag("--initrd", self.initrd())
            .flag("--cmdline", &self.cmdline)
            .flag("--cpus", self.cpus.to_string())
            .flag("--memory", &self.memory);
        if !self.has("--image-dir") {
            berth = berth.flag("--image-dir", self.directory.path());
        }
        if !self.has("--net") {
            berth = berth.flag("--net", "none");
        }
        for (name, value) in &self.flags {
            berth = berth.arg(name);
            if let Some(value) = value {
                berth = berth.arg(value);
            }
        }
        let machine = berth.start();
        (self.directory, machine)
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn report(self) -> Report {
        let (_directory, machine) = self.start();
        machine.wait_for_exit()
    }
}
