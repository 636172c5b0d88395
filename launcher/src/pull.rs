//! `berth image pull`: a base is fetched into the image directory, and that is all.

use crate::args;
use crate::args::pull::PullArgs;
use crate::config::{self, ConfigError, Layers};
use crate::exit;
use crate::failure::Failure;
use crate::host::Host;
use crate::image::fetch;
use crate::program;
use crate::signals::Signals;

/// Fetches; answers the exit status.
pub fn pull(args: &PullArgs) -> u8 {
    program::with_log(|| layers(args), logged)
}

fn layers(args: &PullArgs) -> Result<Layers, Failure> {
    let (_, environment) =
        args::from_environment(|name| std::env::var_os(name)).map_err(ConfigError::from)?;
    Ok(Layers { flags: args.settings(), environment, file: None })
}

fn logged(layers: &Layers, signals: Signals) -> Result<u8, Failure> {
    let host = Host::gather(|name| std::env::var_os(name));
    let given = layers.get(args::IMAGE_SOURCE).ok_or_else(|| {
        let sentence = "no image to fetch; name an http or https URL: berth image pull URL";
        ConfigError::Together(sentence.to_owned())
    })?;
    let dir = config::image_dir(layers, &host)?;
    let wanted = config::wanted(layers, &host, &given)?;
    let fetched = fetch::fetch(&dir, &wanted, &|| signals.asked());
    let base = fetched.map_err(|error| Failure::new(&error, exit::ERROR))?;
    println!("{}", base.display());
    Ok(0)
}
