//! What a server's answer means: status, length, which part of which edition (RFC 9110 §8.8, §14.4,
//! §15; RFC 9112 §6.3). Whatever comes from the server is hostile: all of it is compared with what
//! was asked for. Pure.

use std::time::Duration;

use ureq::http::header::{self, HeaderName};
use ureq::http::{HeaderMap, StatusCode};

use super::partial::Edition;

/// Longest header value that is kept, in bytes.
const MAX_VALUE: usize = 512;
/// Longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// By its length in bytes.
    Known(u64),
    /// By the last chunk.
    Chunked,
    /// Not at all: the connection ends, or was cut.
    Unknown,
}

/// The head of a body that is worth reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Offset of the body's first byte in the whole file.
    pub from: u64,
    /// How the body ends.
    pub length: Length,
    /// Which edition it is of.
    pub edition: Edition,
}

/// What an answer other than a body means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Somebody else may have more luck: tried again, after a while the server may have named.
    Again {
        /// What happened.
        reason: String,
        /// The server's wish.
        after: Option<Duration>,
    },
    /// It will be the same the next time.
    Refused(String),
    /// What was asked to be gone on with is not there any more: begin anew.
    Changed(String),
}

impl Trouble {
    /// Worth another try.
    pub fn again(reason: impl Into<String>) -> Self {
        Self::Again { reason: reason.into(), after: None }
    }
}

/// What an answer is, when `from` bytes were there and the rest was asked for if that is not 0.
///
/// # Errors
/// [`Trouble`].
pub fn judge(status: StatusCode, headers: &HeaderMap, from: u64) -> Result<Head, Trouble> {
    let said = || format!("the server answered {}", show(status));
    match status.as_u16() {
        200 | 206 => {}
        416 if from > 0 => return Err(Trouble::Changed(said())),
        408 | 425 | 429 | 500..=599 => {
            let after = text(headers, header::RETRY_AFTER).and_then(|after| after.parse().ok());
            let after = after.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT));
            return Err(Trouble::Again { reason: said(), after });
        }
        _ => return Err(Trouble::Refused(said())),
    }
    if let Some(coding) = text(headers, header::CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        let reason = format!("the server sent the encoding {coding:.20?}, which was not asked for");
        return Err(Trouble::Refused(reason));
    }
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let known = text(headers, header::CONTENT_LENGTH).and_then(number);
    let length = match known {
        _ if chunked => Length::Chunked,
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    };
    if status == StatusCode::OK {
        let total = if let Length::Known(length) = length { Some(length) } else { None };
        return Ok(Head { from: 0, length, edition: edition(headers, total) });
    }
    if from == 0 {
        return Err(Trouble::again("the server sent a part where the whole was asked for"));
    }
    let wrong = |what: &str| Trouble::Changed(format!("the server sent another part: {what:.80?}"));
    let range = text(headers, header::CONTENT_RANGE).unwrap_or_default();
    let range_read = content_range(range).ok_or_else(|| wrong(range))?;
    let ContentRange { first, last, total } = range_read;
    let rest = total.checked_sub(from).ok_or_else(|| wrong(range))?;
    let to_the_end = last.checked_add(1) == Some(total);
    let fits = length == Length::Known(rest) || length == Length::Chunked;
    if first != from || !to_the_end || !fits {
        return Err(wrong(range));
    }
    // Known by the range itself, whatever the framing.
    let length = Length::Known(rest);
    Ok(Head { from, length, edition: edition(headers, Some(total)) })
}

/// Where a redirect leads; `None`: it is none.
pub fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<&str> {
    [301, 302, 303, 307, 308]
        .contains(&status.as_u16())
        .then(|| text(headers, header::LOCATION).unwrap_or_default())
}

/// A status as people know it.
fn show(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(text: &str) -> Option<u64> {
    // `parse` would take a sign as well.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn edition(headers: &HeaderMap, total: Option<u64>) -> Edition {
    let kept = |name| text(headers, name).filter(|value| value.len() <= MAX_VALUE);
    // Within the second of a change, the time does not tell the two apart.
    let modified =
        kept(header::LAST_MODIFIED).filter(|time| Some(*time) != text(headers, header::DATE));
    Edition {
        etag: kept(header::ETAG).map(str::to_owned),
        last_modified: modified.map(str::to_owned),
        total,
    }
}

/// `bytes FIRST-LAST/TOTAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: u64,
}

/// Reads a `Content-Range` header (RFC 9110 §14.4); `None` for what is malformed or leaves out the
/// total.
fn content_range(text: &str) -> Option<ContentRange> {
    let (unit, range) = text.split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = range.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    (first <= last && last < total).then_some(ContentRange { first, last, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ureq::http::HeaderValue;

    fn judged(status: u16, headers: &[(&str, &str)], from: u64) -> Result<Head, Trouble> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
            })
            .collect();
        judge(StatusCode::from_u16(status).unwrap(), &headers, from)
    }

    #[test]
    fn whole_answers() {
        let head = judged(200, &[("content-length", "10"), ("etag", "\"a\"")], 5).unwrap();
        assert_eq!((head.from, head.length), (0, Length::Known(10)));
        assert_eq!(head.edition.etag.as_deref(), Some("\"a\""));
        assert_eq!(head.edition.total, Some(10));
        let head = judged(200, &[("transfer-encoding", "chunked")], 0).unwrap();
        assert_eq!((head.length, head.edition), (Length::Chunked, Edition::default()));
        assert_eq!(judged(200, &[], 0).unwrap().length, Length::Unknown);
        assert_eq!(judged(200, &[("content-length", "+5")], 0).unwrap().length, Length::Unknown);
        let same = [("last-modified", "now"), ("date", "now")];
        assert_eq!(judged(200, &same, 0).unwrap().edition.last_modified, None);
    }

    #[test]
    fn parts_have_to_be_the_ones_asked_for() {
        let part = |range: &str, length: &str| {
            judged(206, &[("content-range", range), ("content-length", length)], 4)
        };
        let head = part("bytes 4-9/10", "6").unwrap();
        assert_eq!((head.from, head.length, head.edition.total), (4, Length::Known(6), Some(10)));
        for (range, length) in [
            ("bytes 3-9/10", "7"),
            ("bytes 5-9/10", "5"),
            ("bytes 4-8/10", "5"),
            ("bytes 4-9/10", "7"),
            ("bytes 4-9/*", "6"),
            ("bytes 4-9/9", "6"),
            ("bytes 4-18446744073709551615/18446744073709551615", "6"),
            ("bytes 4-9/3", "6"),
            ("items 4-9/10", "6"),
            ("bytes */10", "6"),
            ("", "6"),
        ] {
            let trouble = part(range, length).unwrap_err();
            assert!(matches!(trouble, Trouble::Changed(_)), "{range}: {trouble:?}");
        }
        let unasked = [("content-range", "bytes 0-9/10"), ("content-length", "10")];
        assert!(matches!(judged(206, &unasked, 0), Err(Trouble::Again { .. })));
    }

    #[test]
    fn what_is_tried_again() {
        let told = |trouble| match trouble {
            Err(Trouble::Again { reason, after }) => (reason, after),
            other => panic!("{other:?}"),
        };
        let (reason, after) = told(judged(503, &[("retry-after", "7")], 0));
        assert_eq!(reason, "the server answered 503 Service Unavailable");
        assert_eq!(after, Some(Duration::from_secs(7)));
        assert_eq!(told(judged(429, &[("retry-after", "999999")], 0)).1, Some(MAX_WAIT));
        assert_eq!(told(judged(500, &[("retry-after", "Fri, 1 Jan")], 0)).1, None);
        for status in [400, 401, 403, 404, 410, 204, 300, 304, 416] {
            let answer = judged(status, &[], 0);
            assert!(matches!(answer, Err(Trouble::Refused(_))), "{status}: {answer:?}");
        }
        assert!(matches!(judged(416, &[], 1), Err(Trouble::Changed(_))));
        let packed = judged(200, &[("content-encoding", "gzip")], 0);
        assert!(matches!(packed, Err(Trouble::Refused(_))), "{packed:?}");
    }

    proptest! {
        #[test]
        fn any_range_is_answered(text in "\\PC*", tail in "[0-9*/ -]{0,30}") {
            for text in [text, format!("bytes {tail}")] {
                if let Some(range) = content_range(&text) {
                    prop_assert!(range.first <= range.last && range.last < range.total);
                }
            }
        }

        #[test]
        fn ranges_are_read(first in 0u64..1 << 60, len in 1u64..1 << 60, more in 0u64..1 << 60) {
            let (last, total) = (first + len - 1, first + len + more);
            let want = ContentRange { first, last, total };
            prop_assert_eq!(content_range(&format!("bytes {first}-{last}/{total}")), Some(want));
        }
    }
}
