//! How often and how soon something is tried again: exponential back-off with jitter, so that a
//! hundred pods do not come back at one moment.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::FetchError;
use super::answer::Trouble;
use super::url::Url;
use crate::image::base::Cancelled;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How soon a signal is heard.
const HEARING: Duration = Duration::from_millis(50);

/// Counts the tries of one piece of work.
pub struct Retry<'a> {
    url: &'a Url,
    /// How many there may be without progress.
    tries: u32,
    failed: u32,
    all: u32,
    began: Instant,
    cancelled: Cancelled<'a>,
}

impl<'a> Retry<'a> {
    /// The first try is about to be made.
    pub fn new(url: &'a Url, tries: u32, cancelled: Cancelled<'a>) -> Self {
        Self { url, tries, failed: 0, all: 0, began: Instant::now(), cancelled }
    }

    /// There has been progress: the count begins anew.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// A try has failed: waits for the next, if there is to be one.
    ///
    /// # Errors
    /// [`FetchError::Refused`], [`FetchError::GaveUp`], [`FetchError::Cancelled`].
    pub fn after(&mut self, trouble: Trouble) -> Result<(), FetchError> {
        let (reason, after) = match trouble {
            Trouble::Refused(reason) => {
                return Err(FetchError::Refused { url: self.url.to_string(), reason });
            }
            Trouble::Again { reason, after } => (reason, after),
            Trouble::Changed(reason) => (reason, None),
        };
        self.failed = self.failed.saturating_add(1);
        self.all = self.all.saturating_add(1);
        if self.failed >= self.tries {
            return Err(FetchError::GaveUp {
                url: self.url.to_string(),
                tries: self.all,
                seconds: self.began.elapsed().as_secs(),
                reason,
            });
        }
        let pause =
            pause(self.failed, getrandom::u32().unwrap_or(0)).max(after.unwrap_or_default());
        log::warn!(
            "fetching {}: {reason}; the next try is in {:.1} s ({} left)",
            self.url,
            pause.as_secs_f32(),
            self.tries.saturating_sub(self.failed)
        );
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if (self.cancelled)() {
                return Err(FetchError::Cancelled);
            }
            sleep(HEARING.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// How long to wait after the `failed`th failure: half of it certain, half of it by chance.
fn pause(failed: u32, chance: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    let whole = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    let half = whole / 2;
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let (half, one) = (Duration::from_millis(500), Duration::from_secs(1));
        assert_eq!((pause(1, 0), pause(1, u32::MAX)), (half, one));
        assert_eq!((pause(3, 0), pause(3, u32::MAX)), (2 * one, 4 * one));
        assert_eq!(pause(u32::MAX, u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn tries_are_counted_and_the_time_is_told() {
        let url = Url::parse("http://u:secret@h/x").unwrap();
        let mut retry = Retry::new(&url, 1, &|| false);
        let error = retry.after(Trouble::again("it rains")).unwrap_err().to_string();
        assert!(error.contains("http://h/x") && error.contains("after 1 "), "{error}");
        assert!(error.contains("it rains") && !error.contains("secret"), "{error}");
        let mut retry = Retry::new(&url, 5, &|| true);
        let error = retry.after(Trouble::again("it rains")).unwrap_err();
        assert!(matches!(error, FetchError::Cancelled));
        let error = retry.after(Trouble::Refused("no".into())).unwrap_err();
        assert!(matches!(error, FetchError::Refused { .. }));
    }
}
