//! Flags and environment, and what they mean. A device that is not named is not offered.

use std::path::PathBuf;

use clap::Parser;

use berth_device_plugin::device::Kind;
use berth_device_plugin::plugin::Settings;
use berth_device_plugin::resource::Resource;
use logging::LogForm;

/// What a name is made of (Kubernetes, labels: syntax and character set).
const MAX_DOMAIN: usize = 253;
const MAX_NAME: usize = 63;
/// With more, the list is too long for a message.
const MAX_SLOTS: u32 = 100_000;

/// Offers /dev/kvm, /dev/net/tun and /dev/vhost-net of a Kubernetes node to pods.
#[derive(Debug, Parser)]
#[command(name = "berth-device-plugin", version)]
pub struct Args {
    /// Offer /dev/kvm under this name, such as berth.dev/kvm
    #[arg(long, env = "PLUGIN_KVM", value_name = "RESOURCE", value_parser = resource_name)]
    kvm: Option<String>,
    /// Offer /dev/net/tun under this name, such as berth.dev/tun
    #[arg(long, env = "PLUGIN_TUN", value_name = "RESOURCE", value_parser = resource_name)]
    tun: Option<String>,
    /// Offer /dev/vhost-net under this name, such as berth.dev/vhost-net
    #[arg(long, env = "PLUGIN_VHOST_NET", value_name = "RESOURCE", value_parser = resource_name)]
    vhost_net: Option<String>,
    /// How many containers may share each device
    #[arg(long, env = "PLUGIN_SLOTS", value_name = "COUNT", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    slots: u32,
    /// Where the node's /dev is
    #[arg(long, env = "PLUGIN_DEVICES", value_name = "DIRECTORY", default_value = "/dev")]
    devices: PathBuf,
    /// The kubelet's directory of sockets
    #[arg(
        long,
        env = "PLUGIN_KUBELET",
        value_name = "DIRECTORY",
        default_value = "/var/lib/kubelet/device-plugins"
    )]
    kubelet: PathBuf,
    /// How to log
    #[arg(long, env = "LOG_FORMAT", value_name = "FORM", default_value = "text", value_parser = log_form)]
    pub log_format: LogForm,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: log::LevelFilter,
}

/// What is wrong with the flags taken together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// There is nothing to do.
    #[error("no device is named: give --kvm, --tun or --vhost-net, such as --kvm=berth.dev/kvm")]
    Nothing,
    /// The kubelet could not tell them apart.
    #[error("two devices are named {0}: each needs a name of its own")]
    Twice(String),
}

impl Args {
    /// What is to be offered.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn settings(&self) -> Result<Settings, ArgsError> {
        let mut resources: Vec<Resource> = Vec::new();
        let names =
            [(Kind::Kvm, &self.kvm), (Kind::Tun, &self.tun), (Kind::VhostNet, &self.vhost_net)];
        for (kind, name) in names {
            let Some(name) = name else { continue };
            if resources.iter().any(|other| other.name == *name) {
                return Err(ArgsError::Twice(name.clone()));
            }
            resources.push(Resource { name: name.clone(), kind, slots: self.slots });
        }
        if resources.is_empty() {
            return Err(ArgsError::Nothing);
        }
        let (kubelet, devices) = (self.kubelet.clone(), self.devices.clone());
        Ok(Settings { kubelet, devices, resources })
    }
}

/// The name of an extended resource.
fn resource_name(text: &str) -> Result<String, String> {
    let (domain, name) =
        text.split_once('/').ok_or("a resource's name has two parts, such as berth.dev/kvm")?;
    let is_label = |text: &str, others: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
        let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().next_back())
    };
    let is_domain = domain.len() <= MAX_DOMAIN
        && !domain.contains(|c: char| c.is_ascii_uppercase())
        && domain.split('.').all(|part| is_label(part, "-"));
    if !is_domain {
        return Err(format!("{domain:?} is not a domain, such as berth.dev"));
    }
    if domain == "kubernetes.io"
        || domain.ends_with(".kubernetes.io")
        || domain.starts_with("requests.")
    {
        return Err(format!("{domain} is Kubernetes' own: take a domain of yours"));
    }
    if name.len() > MAX_NAME || !is_label(name, "-_.") {
        return Err(format!(
            "{name:?} is not a name: up to {MAX_NAME} letters, digits, and between them -, _ and ."
        ));
    }
    Ok(text.to_owned())
}

fn log_form(text: &str) -> Result<LogForm, &'static str> {
    match text {
        "text" => Ok(LogForm::Text),
        "json" => Ok(LogForm::Json),
        _ => Err("it is text or json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, String> {
        let all = ["berth-device-plugin"].iter().chain(flags);
        Args::try_parse_from(all).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_of_the_chart() {
        let flags =
            ["--devices=/host/dev", "--slots=7", "--kvm=berth.dev/kvm", "--vhost-net=a-b.c/v_1"];
        let resource = |name: &str, kind| Resource { name: name.into(), kind, slots: 7 };
        let settings = Settings {
            kubelet: "/var/lib/kubelet/device-plugins".into(),
            devices: "/host/dev".into(),
            resources: vec![
                resource("berth.dev/kvm", Kind::Kvm),
                resource("a-b.c/v_1", Kind::VhostNet),
            ],
        };
        assert_eq!(parse(&flags).unwrap().settings(), Ok(settings));
    }

    #[test]
    fn mistakes_are_told() {
        let long = format!("--kvm=x.org/{}", "a".repeat(64));
        for (flag, told) in [
            ("--kvm=kvm", "two parts"),
            ("--kvm=", "two parts"),
            ("--kvm=/kvm", "not a domain"),
            ("--tun=Berth.dev/tun", "not a domain"),
            ("--tun=berth..dev/tun", "not a domain"),
            ("--tun=devices.kubernetes.io/tun", "Kubernetes' own"),
            ("--vhost-net=berth.dev/", "not a name"),
            ("--vhost-net=berth.dev/-a", "not a name"),
            (&long, "not a name"),
            ("--slots=0", "1..=100000"),
            ("--slots=100001", "1..=100000"),
            ("--slots=many", "invalid digit"),
            ("--log-format=xml", "text or json"),
            ("--log-level=loud", "invalid value"),
        ] {
            let message = parse(&[flag]).unwrap_err();
            assert!(message.contains(told), "{flag}: {message}");
            assert!(message.contains(flag.split('=').next().unwrap()), "{flag}: {message}");
        }
        assert_eq!(parse(&[]).unwrap().settings(), Err(ArgsError::Nothing));
        let twice = parse(&["--kvm=a.b/c", "--tun=a.b/c"]).unwrap().settings();
        assert_eq!(twice, Err(ArgsError::Twice("a.b/c".into())));
    }
}
