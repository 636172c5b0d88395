//! What a client's SetEncodings (RFC 6143 §7.5.2) says about rectangles of pixels.

/// An encoding for pixels, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 6143 §7.7.1. Every client takes it, asked for or not.
    #[default]
    Raw,
    /// RFC 6143 §7.7.4.
    Hextile,
    /// Community RFB specification, "Tight Encoding".
    Tight,
    /// RFC 6143 §7.7.6.
    Zrle,
}

/// RFC 6143 §7.7.1.
pub const RAW: i32 = 0;
/// RFC 6143 §7.7.2.
pub const COPY_RECT: i32 = 1;
/// RFC 6143 §7.7.4.
pub const HEXTILE: i32 = 5;
/// Community RFB specification.
pub const TIGHT: i32 = 7;
/// RFC 6143 §7.7.6.
pub const ZRLE: i32 = 16;

/// JPEG quality level 0 to 9, pseudo-encodings.
const QUALITY: std::ops::RangeInclusive<i32> = -32..=-23;
/// JPEG fine-grained quality level 0 to 100, pseudo-encodings.
const FINE_QUALITY: std::ops::RangeInclusive<i32> = -512..=-412;
/// Compression level 0 to 9, pseudo-encodings.
const COMPRESSION: std::ops::RangeInclusive<i32> = -256..=-247;

/// Of a client that says nothing: text takes little less room at higher ones, and more time.
const COMPRESSION_DEFAULT: u8 = 6;

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// The first in the client's list that is ours.
    pub encoding: Encoding,
    /// CopyRect is in the list.
    pub copy_rect: bool,
    /// JPEG's quality, 1 to 100. `None`: no JPEG.
    pub quality: Option<u8>,
    /// zlib's level, 1 to 9.
    pub compression: u8,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            encoding: Encoding::Raw,
            copy_rect: false,
            quality: None,
            compression: COMPRESSION_DEFAULT,
        }
    }
}

impl Wishes {
    /// What is in the client's list. Of levels the first counts, as of encodings; a fine-grained
    /// quality counts more than a coarse one.
    pub fn parse(list: &[i32]) -> Wishes {
        let mut wishes = Wishes::default();
        let mut encoding = None;
        let mut fine = None;
        let mut coarse = None;
        let mut compression = None;
        for number in list {
            match *number {
                RAW => encoding = encoding.or(Some(Encoding::Raw)),
                HEXTILE => encoding = encoding.or(Some(Encoding::Hextile)),
                TIGHT => encoding = encoding.or(Some(Encoding::Tight)),
                ZRLE => encoding = encoding.or(Some(Encoding::Zrle)),
                COPY_RECT => wishes.copy_rect = true,
                level if QUALITY.contains(&level) => {
                    coarse = coarse.or(Some(level.abs_diff(*QUALITY.start())));
                }
                level if FINE_QUALITY.contains(&level) => {
                    fine = fine.or(Some(level.abs_diff(*FINE_QUALITY.start())));
                }
                level if COMPRESSION.contains(&level) => {
                    compression = compression.or(Some(level.abs_diff(*COMPRESSION.start())));
                }
                _ => {}
            }
        }
        wishes.encoding = encoding.unwrap_or_default();
        // Level 0 is a picture one can work with, 9 one that is hard to tell from the original.
        let quality = fine.or(coarse.map(|level| 15 + 9 * level));
        wishes.quality = quality.map(|quality| quality.clamp(1, 100) as u8);
        // Level 0, no compression at all, is of no use to anybody: blocks of zeros are the rule.
        let level = compression.map(|level| level.clamp(1, 9) as u8);
        wishes.compression = level.unwrap_or(COMPRESSION_DEFAULT);
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_encoding_that_is_ours_counts() {
        let encoding = |list: &[i32]| Wishes::parse(list).encoding;
        assert_eq!(encoding(&[]), Encoding::Raw);
        assert_eq!(encoding(&[-239, 2, 15, ZRLE, TIGHT]), Encoding::Zrle);
        assert_eq!(encoding(&[COPY_RECT, TIGHT, ZRLE, HEXTILE, RAW]), Encoding::Tight);
        assert_eq!(encoding(&[HEXTILE]), Encoding::Hextile);
        assert_eq!(encoding(&[RAW, HEXTILE]), Encoding::Raw);
        assert!(Wishes::parse(&[COPY_RECT]).copy_rect && !Wishes::parse(&[RAW]).copy_rect);
    }

    #[test]
    fn levels() {
        let levels = |list: &[i32]| {
            let wishes = Wishes::parse(list);
            (wishes.quality, wishes.compression)
        };
        assert_eq!(levels(&[]), (None, COMPRESSION_DEFAULT));
        assert_eq!(levels(&[-32, -256]), (Some(15), 1));
        assert_eq!(levels(&[-23, -247]), (Some(96), 9));
        assert_eq!(levels(&[-24, -25, -254, -255]), (Some(87), 2));
        assert_eq!(levels(&[-32, -412, -512]), (Some(100), COMPRESSION_DEFAULT));
        assert_eq!(levels(&[-512]), (Some(1), COMPRESSION_DEFAULT));
        assert_eq!(levels(&[-33, -22, -257, -246, -513, -411]), (None, COMPRESSION_DEFAULT));
    }
}
