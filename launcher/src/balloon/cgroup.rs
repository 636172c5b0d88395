//! This process's memory cgroup (version 2; kernel documentation, admin-guide/cgroup-v2.rst): its limits,
//! what it uses, and word from the kernel when memory is short.
//!
//! Of the cgroup and those above it that can be seen, the one with the lowest limit is watched. Word
//! comes in two ways, both by `poll(2)`, so that nothing is looked at meanwhile:
//!
//! - `memory.events`: the kernel tells when its counters change, which they do when a limit is run into.
//!   That may be often, and mean no more than that the page cache is full: it is listened to only so
//!   often.
//! - pressure stall information, by a trigger written to `memory.pressure`, where that can be written
//!   (in most containers it cannot): threads have to wait for memory.
//!
//! All files are opened at once and stay open.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use devices::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::size::Usage;

const HIERARCHY: &str = "sys/fs/cgroup";
/// Some thread has waited for memory for 50 ms of the last two seconds; without privileges, the kernel
/// takes multiples of two seconds only.
const TRIGGER: &[u8] = b"some 50000 2000000\0";
/// The most bytes that any of the files has.
const FILE_MAX: usize = 16 << 10;

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    max: File,
    high: File,
    current: File,
    stat: File,
    process: File,
    events: File,
    /// The trigger, where there is one.
    stall: Option<File>,
}

/// Why [`Cgroup::wait`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is to end.
    Stopped,
    /// Memory is short.
    Pressure,
    /// The time is over.
    Time,
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stall = if self.stall.is_some() { " and its memory.pressure" } else { "" };
        write!(f, "{}{stall}", self.dir.display())
    }
}

impl Cgroup {
    /// Opens this process's cgroup below `root`.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn open(root: &Path) -> Result<Self, String> {
        let proc_self = root.join("proc/self");
        let read = |path: PathBuf| {
            let failed = |error: io::Error| format!("{}: {error}", path.display());
            std::fs::read_to_string(&path).map_err(failed)
        };
        let membership = read(proc_self.join("cgroup"))?;
        let hierarchy = root.join(HIERARCHY);
        let dir = tightest(&hierarchy, &membership)
            .ok_or_else(|| format!("{} has no memory cgroup, version 2", hierarchy.display()))?;
        let open = |path: PathBuf| {
            let failed = |error: io::Error| format!("{}: {error}", path.display());
            File::open(&path).map_err(failed)
        };
        let stall = stall(&dir).inspect_err(|error| {
            log::debug!("memory: {}: {error}", dir.join("memory.pressure").display());
        });
        Ok(Self {
            stall: stall.ok(),
            events: open(dir.join("memory.events"))?,
            max: open(dir.join("memory.max"))?,
            high: open(dir.join("memory.high"))?,
            current: open(dir.join("memory.current"))?,
            stat: open(dir.join("memory.stat"))?,
            process: open(proc_self.join("status"))?,
            dir,
        })
    }

    /// What it uses now.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn usage(&self) -> io::Result<Usage> {
        let stat = text(&self.stat)?;
        let stat = |name: &str| field(&stat, name, 1).ok_or(io::ErrorKind::InvalidData);
        let status = text(&self.process)?;
        let number = |text: String| text.trim().parse::<u64>().ok();
        let limits = [number(text(&self.max)?), number(text(&self.high)?)];
        Ok(Usage {
            limit: limits.into_iter().flatten().min(),
            current: number(text(&self.current)?).ok_or(io::ErrorKind::InvalidData)?,
            reclaimable: stat("file")?
                .saturating_sub(stat("shmem")?)
                .saturating_sub(stat("file_mapped")?),
            process: field(&status, "RssAnon:", 1024).ok_or(io::ErrorKind::InvalidData)?,
        })
    }

    /// Sleeps until memory is short, `stop` is signalled, or `timeout` is over. Word that is there until
    /// `deaf` from now is over is not heard, unless threads wait for memory.
    ///
    /// # Errors
    /// The cgroup is gone, or `poll` fails.
    pub fn wait(
        &self,
        stop: &Event,
        deaf: Duration,
        timeout: Option<Duration>,
    ) -> io::Result<Woken> {
        // What is not there is not waited for either. An event that nobody asks of says nothing; a file of
        // the cgroup's would still report an error when it has changed.
        let stall = match &self.stall {
            Some(stall) => (stall.as_fd(), PollFlags::POLLPRI),
            None => (stop.as_fd(), PollFlags::empty()),
        };
        let stop = (stop.as_fd(), PollFlags::POLLIN);
        let first = woken(sleep([stop, stall], Some(deaf))?)?;
        if first != Woken::Time {
            return Ok(first);
        }
        // What has changed since it was read last is what the kernel tells of.
        text(&self.events)?;
        let events = (self.events.as_fd(), PollFlags::POLLPRI);
        woken(sleep([stop, events, stall], timeout)?)
    }
}

/// What `told`, the first of which is of the event to stop, means.
fn woken<const N: usize>(told: [PollFlags; N]) -> io::Result<Woken> {
    let mut files = told.iter().skip(1);
    if told.first().is_some_and(|stop| !stop.is_empty()) {
        Ok(Woken::Stopped)
    } else if files.clone().any(|told| told.contains(PollFlags::POLLPRI)) {
        Ok(Woken::Pressure)
    } else if files.all(|told| told.is_empty()) {
        Ok(Woken::Time)
    } else {
        // An error alone means that nothing will ever be told.
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn sleep<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    timeout: Option<Duration>,
) -> io::Result<[PollFlags; N]> {
    let until = timeout.map(|timeout| Instant::now() + timeout);
    let mut set = fds.map(|(fd, flags)| PollFd::new(fd, flags));
    loop {
        let left = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                // Rounded up, but for none at all.
                let left = left.as_nanos().div_ceil(1_000_000);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut set, left) {
            Ok(_) => return Ok(set.map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR))),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets a trigger in `dir`.
fn stall(dir: &Path) -> io::Result<File> {
    let path = dir.join("memory.pressure");
    let mut file = File::options().read(true).write(true).open(path)?;
    // In one piece: each write is a trigger.
    file.write_all(TRIGGER)?;
    Ok(file)
}

/// The directory with the lowest limit, from the one that `membership` (`/proc/self/cgroup`) names
/// upwards; the lowest of equals, and of those without a limit. In a container the path may name what is
/// outside of its cgroup namespace: then it is the hierarchy's top.
fn tightest(hierarchy: &Path, membership: &str) -> Option<PathBuf> {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.trim_matches('/');
    let path = if path.split('/').any(|part| part == "..") { "" } else { path };
    let limit = |dir: &Path| {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let limits = ["memory.max", "memory.high"].map(read).into_iter().flatten();
        limits.filter_map(|text| text.trim().parse::<u64>().ok()).min().unwrap_or(u64::MAX)
    };
    let leaf = if path.is_empty() { hierarchy.to_owned() } else { hierarchy.join(path) };
    leaf.ancestors()
        .take_while(|dir| dir.starts_with(hierarchy))
        .filter(|dir| dir.join("memory.current").exists())
        .min_by_key(|dir| limit(dir))
        .map(Path::to_owned)
}

/// All of a small file.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while bytes.len() < FILE_MAX {
        match file.read_at(&mut piece, bytes.len() as u64)? {
            0 => break,
            count => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number in the line that begins with the word `name`, in units of `unit` bytes.
fn field(text: &str, name: &str, unit: u64) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let number = lines.find_map(|mut words| (words.next()? == name).then(|| words.next()))?;
    number?.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STATUS: &str =
        "Name:\tberth\nVmRSS:\t  600000 kB\nRssAnon:\t  524288 kB\nRssFile:\t 1 kB\n";
    const STAT: &str =
        "anon 540000000\nfile 209715200\nkernel 10\nshmem 31457280\nfile_mapped 10485760\n";

    struct Place(tempfile::TempDir);

    impl Place {
        /// A process in the cgroup `/pod/box` of a hierarchy.
        fn new(membership: &str) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            place.write("proc/self/cgroup", membership);
            place.write("proc/self/status", STATUS);
            place
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn cgroup(&self, path: &str, max: &str, high: &str) {
            let files = [
                ("max", max),
                ("high", high),
                ("current", "700000000\n"),
                ("stat", STAT),
                ("events", "low 0\nhigh 3\nmax 7\noom 0\noom_kill 0\n"),
            ];
            for (name, text) in files {
                self.write(&format!("{HIERARCHY}/{path}/memory.{name}"), text);
            }
        }

        fn open(&self) -> Result<Cgroup, String> {
            Cgroup::open(self.0.path())
        }
    }

    #[test]
    fn its_numbers_are_read_each_time() {
        let place = Place::new("0::/\n");
        place.cgroup("", "1140850688\n", "max\n");
        let cgroup = place.open().unwrap();
        let usage = Usage {
            limit: Some(1_140_850_688),
            current: 700_000_000,
            reclaimable: 160 << 20,
            process: 512 << 20,
        };
        assert_eq!(cgroup.usage().unwrap(), usage);
        place.write("sys/fs/cgroup/memory.max", "max\n");
        place.write("sys/fs/cgroup/memory.current", "5\n");
        assert_eq!(cgroup.usage().unwrap(), Usage { limit: None, current: 5, ..usage });
        place.write("sys/fs/cgroup/memory.high", "800000000\n");
        assert_eq!(cgroup.usage().unwrap().limit, Some(800_000_000));
        place.write("sys/fs/cgroup/memory.stat", "nothing\n");
        assert!(cgroup.usage().is_err());
    }

    #[test]
    fn the_tightest_is_watched() {
        let place = Place::new("1:cpu:/x\n0::/pod/box\n");
        place.cgroup("pod", "900000000", "max");
        place.cgroup("pod/box", "max", "max");
        let watched = |place: &Place| place.open().unwrap().to_string();
        assert!(watched(&place).ends_with("/pod"), "{}", watched(&place));
        place.cgroup("pod/box", "max", "800000000");
        assert!(watched(&place).ends_with("/pod/box"));
        place.cgroup("pod/box", "900000000", "max");
        assert!(watched(&place).ends_with("/pod/box"), "of equals the lowest");
    }

    #[test]
    fn a_trigger_is_set_where_it_can_be() {
        let place = Place::new("0::/../..\n");
        place.cgroup("", "max", "max");
        place.write("sys/fs/cgroup/memory.pressure", "");
        let cgroup = place.open().unwrap();
        assert!(cgroup.to_string().ends_with("cgroup and its memory.pressure"), "{cgroup}");
        let written = fs::read(place.0.path().join("sys/fs/cgroup/memory.pressure")).unwrap();
        assert_eq!(written, TRIGGER);
    }

    #[test]
    fn without_a_memory_cgroup_it_is_said_why() {
        let place = Place::new("4:memory:/x\n");
        let why = place.open().unwrap_err();
        assert!(why.ends_with("sys/fs/cgroup has no memory cgroup, version 2"), "{why}");
        let place = Place::new("0::/\n");
        assert!(place.open().unwrap_err().contains("no memory cgroup"));
        place.cgroup("", "max", "max");
        fs::remove_file(place.0.path().join("sys/fs/cgroup/memory.events")).unwrap();
        assert!(place.open().unwrap_err().contains("memory.events: No such file"));
        assert!(Cgroup::open(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn it_sleeps_until_the_time_or_the_end() {
        let place = Place::new("0::/\n");
        place.cgroup("", "max", "max");
        let cgroup = place.open().unwrap();
        let (stop, zero) = (Event::new().unwrap(), Duration::ZERO);
        assert_eq!(cgroup.wait(&stop, zero, Some(zero)).unwrap(), Woken::Time);
        stop.signal();
        assert_eq!(cgroup.wait(&stop, zero, None).unwrap(), Woken::Stopped);
        assert_eq!(cgroup.wait(&stop, Duration::from_secs(3600), None).unwrap(), Woken::Stopped);
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        let [none, told, broken] = [PollFlags::empty(), PollFlags::POLLPRI, PollFlags::POLLERR];
        let stop = PollFlags::POLLIN;
        assert_eq!(woken([none, none, none]).unwrap(), Woken::Time);
        assert_eq!(woken([stop, told]).unwrap(), Woken::Stopped);
        assert_eq!(woken([none, none, told]).unwrap(), Woken::Pressure);
        // The kernel sets both for files of a cgroup.
        assert_eq!(woken([none, told | broken]).unwrap(), Woken::Pressure);
        assert!(woken([none, broken]).is_err());
    }
}
