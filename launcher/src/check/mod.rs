//! `berth check`: what would stop `berth run` with the same settings, what would slow it down, and
//! what to do about each.
//!
//! Each file looks at one thing: `gather` reads the facts, `judge` makes findings of them, without
//! I/O. Nothing is changed: what a file system can do is tried on a file without a name, KVM in a
//! machine that is gone at once, and the network's plan is only shown. Runs on the main thread.

mod device;
mod finding;
mod hugepages;
mod kvm;
mod memory;
mod network;
mod volume;

use std::fmt::Write as _;
use std::io::{self, Write as _};

use devices::virtio::blk::has_io_uring;
use serde_json::{Value, json};

use crate::args::check::CheckArgs;
use crate::args::image::Output;
use crate::config::{self, ConfigError, DiskEngine, Layers, Plan, Root};
use crate::exit;
use crate::failure::{Failure, sentence};
use crate::host::Host;
use crate::hugepages::Supply;
use crate::image::identity::Identity;
use finding::{Finding, Level};
use kvm::Kvm;
use network::{Network, Outlook};
use volume::Volume;

/// Where this runs, which decides what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Container,
    Host,
}

impl Place {
    fn pick<'a>(self, container: &'a str, host: &'a str) -> &'a str {
        match self {
            Self::Container => container,
            Self::Host => host,
        }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
    /// What would be done to the network, one step a line.
    network: Vec<String>,
}

/// Checks; answers the exit status: 0, or 1 if `berth run` would be stopped.
pub fn run(args: &CheckArgs) -> u8 {
    let report = match Layers::gather(args.run.config.as_deref(), &args.run.settings) {
        Ok(layers) => look(&layers),
        Err(error) => Report { findings: vec![mistake(&error)], ..Report::default() },
    };
    match report.print(args.output) {
        Ok(()) if report.stops() => exit::ERROR,
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("berth error: {}", Failure::new(&error, exit::ERROR).sentence);
            exit::ERROR
        }
    }
}

/// Looks at everything that these settings need.
fn look(layers: &Layers) -> Report {
    let host = Host::gather(|name| std::env::var_os(name));
    let place = if host.in_container { Place::Container } else { Place::Host };
    let mut report = Report::default();
    let plan = match config::plan(layers, &host) {
        Err(error @ ConfigError::NoImage) => {
            report.findings.push(mistake(&error));
            // Any file does, so that the rest can be looked at.
            let mut layers = layers.clone();
            layers.flags.kernel = Some("/proc/self/exe".to_owned());
            config::plan(&layers, &host)
        }
        planned => planned,
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            report.findings.push(mistake(&error));
            report.findings.push(Kvm::gather().judge(1, place));
            return report;
        }
    };
    report.of_plan(&plan, &host, place);
    report
}

fn mistake(error: &ConfigError) -> Finding {
    Finding::error("settings", sentence(error))
}

impl Report {
    fn of_plan(&mut self, plan: &Plan, host: &Host, place: Place) {
        let findings = &mut self.findings;
        findings.extend(plan.warnings.iter().map(|text| Finding::warning("settings", text)));
        findings.push(Kvm::gather().judge(plan.cpus, place));
        let on_pages = plan.hugepages.map(|page| Supply::gather(&host.root, page));
        findings.push(memory::judge(plan.memory_bytes, on_pages.is_some(), host.memory, place));
        findings.extend(on_pages.map(|supply| hugepages::judge(&supply, plan.memory_bytes, place)));
        let size = match &plan.root {
            Root::Image(image) => image.size,
            Root::Device(_) | Root::None => None,
        };
        let volume = Volume::gather(&plan.image_dir, &plan.name);
        findings.extend(volume.judge(size, place));
        findings.push(io_uring(has_io_uring(), engine(plan), place));

        let identity = plan.image_dir.join(format!("{}.id", plan.name));
        let identity = match Identity::load(&identity) {
            Ok(identity) => identity,
            Err(error) => {
                findings.push(Finding::error("identity", sentence(&error)));
                None
            }
        };
        let network = Network::gather(&plan.network);
        let outlook = network.judge(plan, identity.map(|identity| identity.mac), place);
        let Outlook { findings: of_network, plan: steps } = outlook;
        findings.extend(of_network);
        self.network = steps;
    }

    /// Whether a run would be stopped.
    fn stops(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }

    fn print(&self, output: Output) -> io::Result<()> {
        let text = match output {
            Output::Json => format!("{:#}\n", self.as_json()),
            Output::Text => self.as_text(),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let _ = writeln!(text, "{finding}");
        }
        for step in &self.network {
            let _ = writeln!(text, "plan     {step}");
        }
        text
    }

    fn as_json(&self) -> Value {
        json!({
            "ok": !self.stops(),
            "findings": self.findings.iter().map(Finding::as_json).collect::<Vec<_>>(),
            "network-plan": self.network,
        })
    }
}

/// What is to move the root disk's data.
fn engine(plan: &Plan) -> DiskEngine {
    match &plan.root {
        Root::Image(image) => image.engine,
        Root::Device(disk) => disk.engine,
        Root::None => DiskEngine::Auto,
    }
}

fn io_uring(found: io::Result<()>, wish: DiskEngine, place: Place) -> Finding {
    let subject = "io_uring";
    let error = match found {
        Ok(()) => return Finding::fine(subject, "the kernel allows it"),
        Err(_) if wish == DiskEngine::Sync => {
            return Finding::fine(subject, "not allowed, and not used: --disk-engine sync");
        }
        Err(error) => error,
    };
    let remedy = place.pick(
        "securityContext: {seccompProfile: {type: Unconfined}}, or a profile that allows io_uring",
        "sysctl -w kernel.io_uring_disabled=0",
    );
    let text = format!("the kernel does not allow it: {error}");
    match wish {
        DiskEngine::IoUring => Finding::error(subject, text),
        _ => Finding::warning(subject, format!("{text}; disks are moved by calls, slower")),
    }
    .remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_uring_is_needed_if_it_is_asked_for() {
        let no = || Err(io::ErrorKind::PermissionDenied.into());
        let level = |found, wish| io_uring(found, wish, Place::Container).level;
        assert_eq!(level(Ok(()), DiskEngine::IoUring), Level::Fine);
        assert_eq!(level(no(), DiskEngine::IoUring), Level::Error);
        assert_eq!(level(no(), DiskEngine::Auto), Level::Warning);
        assert_eq!(level(no(), DiskEngine::Sync), Level::Fine);
    }

    #[test]
    fn an_error_is_what_stops() {
        let mut report = Report {
            findings: vec![Finding::fine("a", "b"), Finding::warning("c", "d").remedy("e")],
            network: vec!["guest".to_owned(), "bring it up".to_owned()],
        };
        assert!(!report.stops());
        assert_eq!(
            report.as_text(),
            "ok       a: b\nwarning  c: d; e\nplan     guest\nplan     bring it up\n"
        );
        assert_eq!(report.as_json()["network-plan"][1], "bring it up");
        report.findings.push(Finding::error("f", "g"));
        assert!(report.stops());
        assert_eq!(report.as_json()["ok"], false);
    }
}
