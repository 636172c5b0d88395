//! Sizes and times as people write them.
//!
//! Binary units only: `G`, `Gi` and `GiB` are 2³⁰. `GB` is refused, since it means one thing to a
//! disk vendor and another to a memory vendor. No fractions, no signs.

use std::time::Duration;

/// Why a text is not a size or a time. The sentence continues "`VALUE` ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It does not start with a digit, or is not a whole number.
    #[error("is not a whole number with an optional unit")]
    Number,
    /// A unit nobody knows.
    #[error("has an unknown unit")]
    Unit,
    /// No unit where one is needed.
    #[error("has no unit")]
    Missing,
    /// Over 2⁶⁴ bytes or milliseconds.
    #[error("is too large")]
    Overflow,
}

/// Splits `text` into its digits and its unit.
fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() || unit.starts_with(['.', ',']) {
        return Err(UnitError::Number);
    }
    let number = digits.parse().map_err(|_| UnitError::Overflow)?;
    Ok((number, unit.trim_start()))
}

/// A size in bytes. `plain` is the unit of a number without one, in bytes; `None`: a unit is
/// required.
///
/// # Errors
/// See [`UnitError`].
pub fn size(text: &str, plain: Option<u64>) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" => plain.ok_or(UnitError::Missing)?,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        _ => return Err(UnitError::Unit),
    };
    number.checked_mul(factor).ok_or(UnitError::Overflow)
}

/// A time: seconds, or with a unit of `ms`, `s`, `m`, `h`.
///
/// # Errors
/// See [`UnitError`].
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    let factor_ms = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(UnitError::Unit),
    };
    number.checked_mul(factor_ms).map(Duration::from_millis).ok_or(UnitError::Overflow)
}

/// `bytes` as people read them: the largest binary unit that divides it, else bytes.
pub fn show(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn sizes() {
        for (text, plain, want) in [
            ("1024", Some(MIB), Ok(1 << 30)),
            (" 2G ", None, Ok(2 << 30)),
            ("2 GiB", None, Ok(2 << 30)),
            ("512m", None, Ok(512 * MIB)),
            ("3Ti", None, Ok(3 << 40)),
            ("7k", None, Ok(7168)),
            ("0", Some(1), Ok(0)),
            ("10", None, Err(UnitError::Missing)),
            ("", Some(1), Err(UnitError::Number)),
            ("G", None, Err(UnitError::Number)),
            ("-1G", None, Err(UnitError::Number)),
            ("1.5G", None, Err(UnitError::Number)),
            ("1,5G", None, Err(UnitError::Number)),
            ("2GB", None, Err(UnitError::Unit)),
            ("2G2", None, Err(UnitError::Unit)),
            ("18446744073709551616", Some(1), Err(UnitError::Overflow)),
            ("16777216T", None, Err(UnitError::Overflow)),
        ] {
            assert_eq!(size(text, plain), want, "{text:?}");
        }
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("25", Ok(25_000)),
            ("25s", Ok(25_000)),
            ("2m", Ok(120_000)),
            ("1 h", Ok(3_600_000)),
            ("500ms", Ok(500)),
            ("0", Ok(0)),
            ("2 days", Err(UnitError::Unit)),
            ("1.5s", Err(UnitError::Number)),
            ("soon", Err(UnitError::Number)),
            ("99999999999999999999", Err(UnitError::Overflow)),
            ("18446744073709551615h", Err(UnitError::Overflow)),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(number in 0u64..1 << 20, shift in 1u32..4) {
            let bytes = number << (10 * shift);
            prop_assert_eq!(size(&show(bytes).replace(" bytes", ""), Some(1)), Ok(bytes));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = (size(&text, None), size(&text, Some(MIB)), duration(&text));
        }

        #[test]
        fn seconds_are_the_default(number in 0u64..1 << 40) {
            prop_assert_eq!(duration(&number.to_string()), Ok(Duration::from_secs(number)));
            prop_assert_eq!(duration(&format!("{number}ms")), Ok(Duration::from_millis(number)));
        }

        #[test]
        fn products_never_wrap(number: u64, unit in "[kmgtKMGT]") {
            let factor = 1u128 << (10 * (1 + "kmgt".find(&unit.to_lowercase()).unwrap()));
            let want = u128::from(number) * factor;
            match size(&format!("{number}{unit}"), None) {
                Ok(bytes) => prop_assert_eq!(u128::from(bytes), want),
                Err(error) => {
                    prop_assert_eq!(error, UnitError::Overflow);
                    prop_assert!(want > u128::from(u64::MAX));
                }
            }
        }
    }
}
