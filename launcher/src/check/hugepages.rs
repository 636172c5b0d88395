//! Huge pages, where they are asked for: what can be had of them, against what the guest needs.

use super::Place;
use super::finding::Finding;
use crate::hugepages::Supply;

const SUBJECT: &str = "huge pages";

/// Whether `supply` is enough for `guest` bytes.
pub fn judge(supply: &Supply, guest: u64, place: Place) -> Finding {
    match supply.judge(guest, place == Place::Container) {
        Err(short) => Finding::error(SUBJECT, short.text).remedy(short.remedy),
        Ok(()) => {
            let (page, count) = (supply.page, guest / supply.page.bytes());
            let of = supply.available().map_or_else(
                || "; nobody says how many there are".to_owned(),
                |available| format!(", of {available} that can be had"),
            );
            Finding::fine(SUBJECT, format!("{count} of {page} for the guest{of}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm::config::HugePage;

    use super::super::finding::Level;
    use super::*;

    #[test]
    fn too_few_stop_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let found = |guest| {
            let supply = Supply::gather(dir.path(), HugePage::TwoMib);
            judge(&supply, guest, Place::Host)
        };
        let unknown = "512 of 2 MiB for the guest; nobody says how many there are";
        assert_eq!(found(1 << 30).text, unknown);
        let pool = dir.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&pool).unwrap();
        for name in ["nr_hugepages", "free_hugepages"] {
            std::fs::write(pool.join(name), "600\n").unwrap();
        }
        let fine = found(1 << 30);
        assert_eq!(fine.text, "512 of 2 MiB for the guest, of 600 that can be had");
        let short = found(2 << 30);
        assert_eq!((fine.level, short.level), (Level::Fine, Level::Error));
        assert!(short.text.ends_with("and 600 are free on this host"), "{}", short.text);
        assert!(short.remedy.unwrap().contains("echo 1024 >/sys/kernel/mm/"));
    }
}
