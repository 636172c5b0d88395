//! The huge pages that the guest's memory is on, as `--hugepages` names them.

use vmm::config::HugePage;

use super::{ConfigError, Layers, parse};
use crate::args;
use crate::units;

/// What was asked for; `None`: nothing.
///
/// # Errors
/// [`ConfigError`].
pub fn config(layers: &Layers) -> Result<Option<HugePage>, ConfigError> {
    parse(layers, args::HUGEPAGES, |text| {
        let size = units::size(text, None).ok();
        let page = HugePage::ALL.into_iter().find(|page| Some(page.bytes()) == size);
        page.ok_or_else(|| ("is not a size that huge pages have".into(), "write 2M or 1G".into()))
    })
}
