//! A whole Debian cloud image with its config drive, made by `tests/images/build`. Its network is
//! the one that a host gives by default, and it is told of it by DHCP.
//!
//! The base is copied to the test's directory; the overlay beside it is the machine that lives
//! through several runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Berth, DiskImage, VirtualMachine, guest_file, scratch};

/// A whole system on an emulated machine that is not alone.
const PATIENCE: Duration = Duration::from_secs(1500);
/// The guest's SSH has the host's port of this number and its own beside it.
const PORTS: u16 = 2200;

/// A cloud image, and what it is told by its config drive.
pub struct CloudImage {
    directory: TempDir,
    name: String,
    port: u16,
}

impl CloudImage {
    /// Prepares the image `base` (such as `debian-12`) as machine `name`, with a user `tester`
    /// who has an SSH key. `number` keeps machines apart that run at the same time.
    ///
    /// # Panics
    /// If anything it takes is missing.
    pub fn new(base: &str, name: &str, number: u8) -> Self {
        let port = PORTS + u16::from(number);
        let image = Self { directory: scratch(), name: name.into(), port };
        fs::copy(guest_file(&format!("{base}.qcow2")), image.base().path())
            .expect("room for the base");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f"])
            .arg(image.path("key"))
            .status()
            .expect("ssh-keygen is installed");
        assert!(made.success(), "ssh-keygen failed");
        image.write_config();
        image
    }

    fn write_config(&self) {
        let key = fs::read_to_string(self.path("key.pub")).expect("ssh-keygen wrote it");
        let name = &self.name;
        let metadata = format!("local-hostname: {name}\nhostname: {name}\n");
        let userdata = format!(
            "#cloud-config\nhostname: {name}\nusers:\n- name: tester\n  shell: /bin/bash\n  \
             sudo: ALL=(ALL) NOPASSWD:ALL\n  ssh_authorized_keys:\n  - {}\nwrite_files:\n\
             - path: /etc/systemd/system.conf.d/patience.conf\n  \
             content: \"[Manager]\\nDefaultDeviceTimeoutSec=900\\n\"\nruncmd:\n\
             - [sh, -c, 'echo first >>/var/lib/first-boots']\n",
            key.trim()
        );
        fs::write(self.path("metadata"), metadata).expect("the directory is writable");
        fs::write(self.path("userdata"), userdata).expect("the directory is writable");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The base image.
    pub fn base(&self) -> BaseImage {
        BaseImage(self.path("base.qcow2"))
    }

    /// The overlay that the machine lives on.
    ///
    /// # Panics
    /// If there is none yet.
    pub fn overlay(&self) -> DiskImage {
        DiskImage::at(&self.path(&format!("{}.qcow2", self.name)))
    }

    /// Starts the machine, or starts it again.
    ///
    /// # Panics
    /// If the program is missing.
    pub fn start(&self, cpus: u32, disk_size: &str) -> VirtualMachine {
        Berth::run()
            .patience(PATIENCE)
            .flag("--name", &self.name)
            .flag("--image-dir", self.directory.path())
            .flag("--disk-size", disk_size)
            .flag("--cpus", cpus.to_string())
            .flag("--memory", "768M")
            .flag("--net", "nat")
            .flag("--publish", format!("{}:22", self.port))
            .flag("--metadata", self.path("metadata"))
            .flag("--userdata", self.path("userdata"))
            .flag("--stop-timeout", "600")
            // On an emulated machine that others use too, udev can take longer than the 90 s after
            // which systemd gives up a device, and the login prompt with it. A systemd that is too
            // old for this has a file of user-data's, from its second boot on.
            .flag("--cmdline", "systemd.default_device_timeout_sec=900")
            .arg(self.base().path())
            .start()
    }

    /// Runs `command` in the guest over SSH; its output, if it could be run and succeeded.
    ///
    /// The guest's host key is learnt at the first connection; a later one that shows another
    /// key is refused.
    ///
    /// # Errors
    /// What ssh or the command said.
    pub fn try_ssh(&self, command: &str) -> Result<String, String> {
        let output = Command::new("ssh")
            .arg("-i")
            .arg(self.path("key"))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()))
            .args([
                "-o",
                "StrictHostKeyChecking=accept-new",
                "-o",
                "GlobalKnownHostsFile=/dev/null",
            ])
            .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"])
            .args(["-F", "none", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=20"])
            .args(["-p", &self.port.to_string(), "tester@127.0.0.1"])
            .arg(command)
            .output()
            .map_err(|error| format!("cannot run ssh: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        Err(format!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// [`try_ssh`](Self::try_ssh) for a command that must succeed. Waits for sshd, which may
    /// come up after the login prompt.
    ///
    /// # Panics
    /// If it does not succeed.
    pub fn ssh(&self, machine: &VirtualMachine, command: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            match self.try_ssh(command) {
                Ok(output) => return output,
                // 255 is ssh's own failure, others are the command's.
                Err(error)
                    if error.starts_with("exit status: 255") && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_secs(2));
                }
                Err(error) => panic!("{}", machine.describe(&format!("ssh {command:?}: {error}"))),
            }
        }
    }
}

/// The image below the overlay.
pub struct BaseImage(PathBuf);

impl BaseImage {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its SHA-256.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn sha256(&self) -> String {
        DiskImage::at(&self.0).sha256()
    }
}
