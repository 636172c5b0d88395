//! `berth image pull`: some of the settings of a run, as typed.

use clap::Args;

use super::Settings;

/// `berth image pull`. The environment counts as for `berth run`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The http or https URL of a qcow2 or raw image; a raw one may be compressed by gzip, xz or
    /// zstd [env: IMG_SOURCE]
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Name of the base in the image directory [env: IMG_TARGET] [default: the last part of the
    /// URL]
    #[arg(long, value_name = "NAME")]
    pub image_name: Option<String>,
    /// Refuse any other content: sha256:HEX, sha512:HEX, or the URL of a list such as SHA256SUMS
    /// [env: IMG_SHA256]
    #[arg(long, value_name = "DIGEST")]
    pub image_sha256: Option<String>,
    /// Format of the image: qcow2 or raw [env: IMG_FORMAT] [default: by its header]
    #[arg(long, value_name = "FORMAT")]
    pub image_format: Option<String>,
    /// Also trust the certificate authorities in this PEM file [env: IMG_CA]
    #[arg(long, value_name = "FILE")]
    pub image_ca: Option<String>,
    /// How long a server may send nothing [env: IMG_TIMEOUT] [default: 60]
    #[arg(long, value_name = "TIME")]
    pub image_timeout: Option<String>,
    /// Tries without progress until fetching is given up [env: IMG_TRIES] [default: 10]
    #[arg(long, value_name = "N")]
    pub image_tries: Option<String>,
    /// Where the image goes [env: IMG_DIR] [default: as for berth run]
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<String>,
    /// Form of the log: text or json [env: BERTH_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace [env: BERTH_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl PullArgs {
    /// The same as settings.
    pub fn settings(&self) -> Settings {
        Settings {
            image: self.url.clone(),
            image_name: self.image_name.clone(),
            image_sha256: self.image_sha256.clone(),
            image_format: self.image_format.clone(),
            image_ca: self.image_ca.clone(),
            image_timeout: self.image_timeout.clone(),
            image_tries: self.image_tries.clone(),
            image_dir: self.image_dir.clone(),
            log_format: self.log_format.clone(),
            log_level: self.log_level.clone(),
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::args::image::ImageCommand;
    use crate::args::{Cli, Command, FIELDS};
    use clap::{CommandFactory, Parser};

    #[test]
    fn what_is_pulled_is_set_as_for_a_run() {
        let mut cli = Cli::command();
        let pull = cli.find_subcommand_mut("image").unwrap().find_subcommand_mut("pull").unwrap();
        let help = pull.render_long_help().to_string();
        let flags = pull.get_arguments().filter_map(|a| a.get_long().map(str::to_owned));
        for flag in flags.filter(|flag| flag != "help") {
            let field = FIELDS.iter().find(|field| field.key == flag).expect(&flag);
            assert!(help.contains(field.env), "{}", field.env);
            let given = format!("--{flag}=x");
            let cli = Cli::try_parse_from(["berth", "image", "pull", "url", &given]).unwrap();
            let Command::Image(image) = cli.command else { panic!("{flag}") };
            let ImageCommand::Pull(pull) = image.command else { panic!("{flag}") };
            let settings = pull.settings();
            assert_eq!(field.of(&settings).as_deref(), Some("x"), "{flag}");
            assert_eq!(settings.image.as_deref(), Some("url"));
        }
    }
}
