//! Which of two versions is newer: the comparison of RPM and of the UAPI Version Format.
//!
//! Runs of digits compare as numbers, runs of letters as text, a number is newer than letters;
//! `~` sorts before the end (`1.0~rc1 < 1.0`), `^` after it. Everything else only separates.

use std::cmp::Ordering;

/// Compares two versions.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_separators(a);
        b = skip_separators(b);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => (a, b) = (&a[1..], &b[1..]),
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), _) => return Ordering::Less,
            (_, Some(b'^')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => {
                let by_kind = x.is_ascii_digit().cmp(&y.is_ascii_digit());
                if by_kind != Ordering::Equal {
                    return by_kind;
                }
                let is_digits = x.is_ascii_digit();
                let (left, rest_a) = run(a, is_digits);
                let (right, rest_b) = run(b, is_digits);
                let order = if is_digits {
                    let (left, right) = (without_zeroes(left), without_zeroes(right));
                    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
                } else {
                    left.cmp(right)
                };
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
        }
    }
}

/// Compares what is left of `.conf` in names of boot entries, as GRUB does: name, version, release.
pub fn compare_entry_names(a: &str, b: &str) -> Ordering {
    let (a, b) = (split_release(a), split_release(b));
    compare(a.0, b.0).then_with(|| compare(a.1, b.1)).then_with(|| compare(a.2, b.2))
}

/// `name-version-release` in its parts; what is missing is empty.
fn split_release(text: &str) -> (&str, &str, &str) {
    let (head, release) = text.rsplit_once('-').unwrap_or((text, ""));
    let (name, version) = head.rsplit_once('-').unwrap_or(("", head));
    (name, version, release)
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let is_separator = |c: &u8| !c.is_ascii_alphanumeric() && *c != b'~' && *c != b'^';
    &text[text.iter().take_while(|c| is_separator(c)).count()..]
}

/// The digits, or the letters, that `text` begins with, and the rest.
fn run(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let is_in = |c: &u8| if digits { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
    text.split_at(text.iter().take_while(|c| is_in(c)).count())
}

fn without_zeroes(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|c| **c == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_in_ascending_order() {
        let sorted = [
            "~1",
            "",
            "0",
            "1~rc1",
            "1",
            "1^git",
            "1.0",
            "1.0a",
            "1.1",
            "1.10",
            "4.18.0-9.el8",
            "4.18.0-477.el8",
            "5.14.0-70.13.1.el9_0",
            "5.14.0-362.el9",
            "6.6.8",
            "10",
        ];
        for (index, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), index.cmp(&other), "{a} and {b}");
            }
        }
        assert_eq!(compare("1.010", "1_10"), Ordering::Equal);
    }

    #[test]
    fn the_rescue_entry_is_the_oldest_of_its_machine() {
        let rescue = "abc123-0-rescue";
        let old = "abc123-6.5.6-300.fc39.x86_64";
        let new = "abc123-6.11.4-301.fc41.x86_64";
        assert_eq!(compare_entry_names(rescue, old), Ordering::Less);
        assert_eq!(compare_entry_names(old, new), Ordering::Less);
        compare_entry_names("x", "");
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a1~^.0-]{0,8}", b in "[a1~^.0-]{0,8}", c in "\\PC{0,4}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare(&a, &c), compare(&c, &a).reverse());
        }
    }
}
