//! Which files the process may still open by name, and what it may do to them (landlock(7)): what
//! is read again while the machine runs, and what is removed at the end. What is open already is not
//! affected. A kernel without Landlock, or with less of it, does what it can, and that is said.
//!
//! Files that others replace (those of a ConfigMap or a Secret above all, behind two symbolic links)
//! are named by their directories: a rule is for what is there when it is made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::{SandboxError, refused};
use crate::config::{Boot, Plan, Ready};
use crate::image::Created;
use crate::server::passwords::Source;

/// The newest that is known here.
const NEWEST: ABI = ABI::V9;
/// A directory that holds everything, or everybody's: no rule is for all of it.
const BROAD: [&str; 10] =
    ["/", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var"];

/// What may still be opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Read, with what is beneath.
    read: Vec<PathBuf>,
    /// Written, when they are there.
    written: Vec<PathBuf>,
    /// Something is removed out of these directories at the end.
    removed_from: Vec<PathBuf>,
    /// So is what was made for a machine that does not start after all.
    unmade_from: Vec<PathBuf>,
    /// Devices that are opened when the machine starts.
    devices: Vec<PathBuf>,
    /// Sockets beneath these are connected to.
    called: Vec<PathBuf>,
    /// TCP ports that are connected to.
    ports: Vec<u16>,
}

impl Files {
    /// Of a machine that is about to start, with its control socket, the files that name servers come
    /// from, and what was made for it.
    pub fn of(plan: &Plan, socket: Option<&Path>, resolvers: &[&str], created: &Created) -> Files {
        let mut files = Files::default();
        if let Boot::Kernel { kernel, initrd, .. } = &plan.boot {
            files.reread(kernel);
            initrd.iter().for_each(|initrd| files.reread(initrd));
        }
        if let Some(vnc) = &plan.vnc {
            for source in [&vnc.passwords.full, &vnc.passwords.view].into_iter().flatten() {
                if let Source::File(path) = source {
                    files.reread(path);
                }
            }
            for path in vnc.tls.iter().flat_map(|(certificate, key)| [certificate, key]) {
                files.reread(path);
            }
        }
        resolvers.iter().for_each(|path| files.reread(Path::new(path)));
        files.read.push(plan.web_root.clone());
        // Its threads' times, and who they are.
        files.read.push(PathBuf::from("/proc/self"));
        // What this process may use, and uses.
        files.read.push(PathBuf::from("/sys/fs/cgroup"));
        files.written.extend(plan.termination_log.clone());
        files.removed_from.extend(socket.and_then(Path::parent).map(Path::to_owned));
        if let Some(directory) = plan.vsock.as_ref().and_then(|vsock| vsock.path.parent()) {
            files.removed_from.push(directory.to_owned());
            files.called.push(directory.to_owned());
        }
        files.unmade_from.extend(created.places().map(Path::to_owned));
        files.devices.push(PathBuf::from(vmm::kvm::DEVICE));
        if let Ready::Tcp(port) = plan.ready {
            files.ports.push(port);
        }
        files
    }

    /// For what is beneath `directory`.
    #[cfg(test)]
    pub fn reading(directory: &Path) -> Files {
        Files { read: vec![directory.to_owned()], ..Files::default() }
    }

    /// A device that is opened when the machine starts.
    #[cfg(test)]
    pub fn device(&mut self, path: &Path) {
        self.devices.push(path.to_owned());
    }

    /// Sockets beneath `directory` are connected to.
    #[cfg(test)]
    pub fn calling(&mut self, directory: &Path) {
        self.called.push(directory.to_owned());
    }

    /// `path` is read again later, whoever may have replaced it by then.
    fn reread(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        for path in [path, real] {
            let directory = path.parent().filter(|parent| !is_broad(parent) && !is_mount(&path));
            let rule = directory.map_or_else(|| path.clone(), Path::to_owned);
            if !self.read.contains(&rule) {
                self.read.push(rule);
            }
        }
    }

    /// Confines the calling thread, and what it starts, to these. Answers what is to be confined
    /// further, and in words what the kernel can do.
    ///
    /// # Errors
    /// [`SandboxError::Refused`].
    pub fn restrict(&self) -> Result<(Narrow, String), SandboxError> {
        let wrong = |error: RulesetError| refused("access rules")(&error);
        let narrow = Narrow(Arc::new(self.rules(false).map_err(wrong)?));
        let wide = self.rules(true).map_err(wrong)?;
        let status = wide.restrict_self().map_err(wrong)?;
        let has = match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, _) => "no Landlock in this kernel".to_owned(),
            (_, LandlockStatus::Available { effective_abi, .. }) => {
                format!("Landlock {}", effective_abi as i32)
            }
            _ => "Landlock".to_owned(),
        };
        Ok((narrow, has))
    }

    fn rules(&self, wide: bool) -> Result<RulesetCreated, RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(ABI::V4))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::WriteFile | AccessFs::Truncate;
        rules = add(rules, &self.read, read)?;
        rules = add(rules, &self.written, write)?;
        rules = add(rules, &self.removed_from, AccessFs::RemoveFile.into())?;
        rules = add(rules, &self.called, AccessFs::ResolveUnix.into())?;
        if wide {
            rules = add(rules, &self.unmade_from, AccessFs::RemoveFile | AccessFs::RemoveDir)?;
            let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = add(rules, &self.devices, device)?;
        }
        for port in &self.ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(rules)
    }
}

/// Whether this kernel has Landlock.
#[cfg(test)]
pub fn is_enforced() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    wanted.handle_access(AccessFs::Execute).is_ok()
}

/// Whether it also says which sockets are connected to.
#[cfg(test)]
pub fn is_enforced_for_sockets() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    wanted.handle_access(AccessFs::ResolveUnix).is_ok()
}

/// Adds a rule for each of `paths` that is there.
fn add(
    mut rules: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    for path in paths {
        let Ok(opened) = PathFd::new(path) else { continue };
        let fits = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        rules = rules.add_rule(PathBeneath::new(opened, fits))?;
    }
    Ok(rules)
}

fn is_broad(directory: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    BROAD.iter().any(|broad| directory == Path::new(broad)) || home.as_deref() == Some(directory)
}

/// Whether a file is mounted by itself, as a runtime does `/etc/resolv.conf`: nobody can put another
/// in its place.
fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|about| about.dev());
    device(path).is_some_and(|own| path.parent().and_then(device) != Some(own))
}

/// The files without those that only the start of a machine takes.
pub struct Narrow(Arc<RulesetCreated>);

impl Narrow {
    /// Another for the same.
    pub fn share(&self) -> Narrow {
        Narrow(Arc::clone(&self.0))
    }

    /// Confines the calling thread, and what it starts.
    ///
    /// # Errors
    /// [`SandboxError::Refused`].
    pub fn restrict(&self) -> Result<(), SandboxError> {
        let rules = self.0.try_clone().map_err(|error| refused("access rules")(&error))?;
        rules.restrict_self().map(drop).map_err(|error| refused("access rules")(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn reread(path: &Path) -> Vec<PathBuf> {
        let mut files = Files::default();
        files.reread(path);
        files.reread(path);
        files.read
    }

    #[test]
    fn what_is_replaced_is_named_by_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        // As a Secret is mounted.
        fs::create_dir_all(dir.join("secret/..2026")).unwrap();
        fs::write(dir.join("secret/..2026/password"), "x").unwrap();
        symlink("..2026", dir.join("secret/..data")).unwrap();
        symlink("..data/password", dir.join("secret/password")).unwrap();
        let both = [dir.join("secret"), dir.join("secret/..2026")];
        assert_eq!(reread(&dir.join("secret/password")), both);
        fs::write(dir.join("plain"), "x").unwrap();
        assert_eq!(reread(&dir.join("plain")), [dir]);
    }

    #[test]
    fn a_directory_of_everything_is_never_named() {
        for path in ["/password", "/etc/passwd", "/dev/termination-log", "/tmp/no-such-file"] {
            assert_eq!(reread(Path::new(path)), [PathBuf::from(path)]);
        }
        assert_eq!(reread(Path::new("/usr/no-such-file")), [PathBuf::from("/usr")]);
    }

    #[test]
    fn what_is_mounted_by_itself_stays_what_it_is() {
        // procfs is not the file system that /proc is mounted on.
        assert!(is_mount(Path::new("/proc")) && !is_mount(Path::new("/proc/version")));
    }
}
