//! The screen over RFB (RFC 6143, and the community's RFB specification for what it leaves out).
//!
//! [`pixel`] has the clients' pixel formats, [`encode`] makes rectangles of a picture, [`scroll`]
//! finds what only moved, [`keymap`] tells which key a client means.

pub mod encode;
pub mod keymap;
pub mod pixel;
pub mod scroll;
