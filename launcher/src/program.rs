//! What every command that takes its time begins with: signals as events, a log, and ears for bugs.

use crate::config::{self, Layers};
use crate::exit;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{sandbox, terminal};

/// Runs `story` with its settings, a log to tell it to, and the signals blocked; answers the exit
/// status.
pub fn with_log(
    layers: impl FnOnce() -> Result<Layers, Failure>,
    story: impl FnOnce(&Layers, Signals) -> Result<u8, Failure>,
) -> u8 {
    // Before the log has a thread.
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => return complain(&format!("signals cannot be blocked: {error}")),
    };
    let layers = match layers() {
        Ok(layers) => layers,
        Err(failure) => return complain_with(&failure),
    };
    let (form, level) = match config::log_settings(&layers) {
        Ok(settings) => settings,
        Err(error) => return complain_with(&error.into()),
    };
    let log = match logging::start(form, level, sandbox::confine) {
        Ok(log) => log,
        Err(error) => return complain(&format!("the log cannot be started: {error}")),
    };
    hear_of_bugs();
    let status = story(&layers, signals).unwrap_or_else(|failure| {
        log::error!("{}", failure.sentence);
        failure.status
    });
    drop(log);
    status
}

fn complain(sentence: &str) -> u8 {
    complain_with(&Failure { sentence: sentence.to_owned(), status: exit::ERROR })
}

/// For what goes wrong before there is a log.
fn complain_with(failure: &Failure) -> u8 {
    eprintln!("berth error: {}", failure.sentence);
    failure.status
}

/// A panic is a bug of ours: it is logged, and the terminal is usable again if the process ends.
fn hear_of_bugs() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        if thread.name() == Some("main") {
            terminal::restore();
        }
        log::error!("this is a bug in berth, in thread {}: {panic}", thread.name().unwrap_or("?"));
    }));
}
