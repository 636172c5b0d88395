//! RFB's messages as types, after the handshake; no I/O. RFC 6143 §7.3 to §7.8, and the extensions
//! of the community's description (rfbproto): fences, continuous updates, SetDesktopSize, QEMU's
//! extended key event.
//!
//! A client's messages are read from whatever has arrived of them. What a client claims to send is
//! never waited for in memory: of long lists the beginning is kept, and the clipboard, which Berth
//! leaves alone, is skipped as it comes.

use devices::display::Rect;

/// Kinds of encodings a client may name, as far as sessions care (RFC 6143 §7.7, §7.8; rfbproto).
pub mod pseudo {
    /// The picture has another size.
    pub const DESKTOP_SIZE: i32 = -223;
    /// The shape of the client's own pointer.
    pub const CURSOR: i32 = -239;
    /// QEMU's extended key event.
    pub const EXTENDED_KEY: i32 = -258;
    /// Lights of the keyboard.
    pub const LED_STATE: i32 = -261;
    /// Title of the window.
    pub const DESKTOP_NAME: i32 = -307;
    /// The picture has another size, and screens.
    pub const EXTENDED_DESKTOP_SIZE: i32 = -308;
    /// Marks in the stream that are answered.
    pub const FENCE: i32 = -312;
    /// Updates without requests.
    pub const CONTINUOUS_UPDATES: i32 = -313;
}

/// Bits of a fence (rfbproto, ServerFence).
pub mod fence {
    /// Everything before it is done first.
    pub const BLOCK_BEFORE: u32 = 1;
    /// Everything after it waits for it.
    pub const BLOCK_AFTER: u32 = 1 << 1;
    /// The next message is done with it.
    pub const SYNC_NEXT: u32 = 1 << 2;
    /// It is to be answered.
    pub const REQUEST: u32 = 1 << 31;
    /// All that is known here.
    pub const KNOWN: u32 = BLOCK_BEFORE | BLOCK_AFTER | SYNC_NEXT | REQUEST;
}

/// Encodings that are kept of a client's list.
pub const ENCODINGS_KEPT: usize = 256;
/// The most bytes a fence carries.
const FENCE_PAYLOAD: usize = 64;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// How pixels are to look.
    SetPixelFormat([u8; 16]),
    /// What it understands, best first.
    SetEncodings(Vec<i32>),
    /// It wants to see something.
    UpdateRequest {
        /// Only what has changed.
        incremental: bool,
        /// Where.
        area: Rect,
    },
    /// A key.
    Key {
        /// X11's name of what the key makes.
        keysym: u32,
        /// Down, or up.
        pressed: bool,
        /// The place of the key, as an XT scan code, with extended key events.
        scan_code: Option<u32>,
    },
    /// The pointer.
    Pointer {
        /// Held buttons, from the least bit: left, middle, right, wheel up, down, left, right, back.
        buttons: u8,
        /// Pixels from the left.
        x: u16,
        /// Pixels from the top.
        y: u16,
    },
    /// Its clipboard has changed.
    Clipboard,
    /// Updates without requests, or not.
    ContinuousUpdates {
        /// From now on.
        enable: bool,
        /// Where.
        area: Rect,
    },
    /// A fence, or the answer to one.
    Fence {
        /// Bits of [`fence`].
        flags: u32,
        /// Comes back as it is.
        payload: Vec<u8>,
    },
    /// It wants the picture to have this size.
    SetDesktopSize {
        /// Pixels a row.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// What no client may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message of a kind that was not offered, so of unknown length.
    #[error("message of unknown type {0}")]
    Message(u8),
    /// QEMU's messages have kinds of their own.
    #[error("QEMU message of unknown type {0}")]
    Qemu(u8),
    /// Longer than a fence is.
    #[error("fence of {0} bytes")]
    Fence(u8),
}

/// Reads messages, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// Bytes that belong to the last message and are not looked at.
    skip: u64,
}

impl MessageReader {
    /// The next message in `input`, if all of it is there, and how many bytes are done with. Asks for
    /// less than 2 KiB at once. Without a message, more has to come, unless bytes were done with and
    /// some are left.
    ///
    /// # Errors
    /// [`ProtocolError`]: where the next message begins is not known.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<ClientMessage>), ProtocolError> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(input.len());
        self.skip = self.skip.saturating_sub(skipped as u64);
        let mut fields = Fields { rest: input.get(skipped..).unwrap_or_default() };
        let before = fields.rest.len();
        let (message, skip) = match fields.message()? {
            Some((message, skip)) => (message, skip),
            None => return Ok((skipped, None)),
        };
        self.skip = skip;
        let used = skipped.saturating_add(before.saturating_sub(fields.rest.len()));
        Ok((used, Some(message)))
    }
}

/// A message's fields, most significant byte first.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn rect(&mut self) -> Option<Rect> {
        let [x, y, width, height] = [self.u16()?, self.u16()?, self.u16()?, self.u16()?];
        Some(Rect { x: x.into(), y: y.into(), width: width.into(), height: height.into() })
    }

    /// A message, and how many bytes behind it are to be skipped. `None`: not all there yet.
    fn message(&mut self) -> Result<Option<(ClientMessage, u64)>, ProtocolError> {
        let Some(kind) = self.u8() else { return Ok(None) };
        Ok(match kind {
            0 => self.pixel_format(),
            2 => self.encodings(),
            3 => self.update_request(),
            4 => self.key(),
            5 => self.pointer(),
            6 => self.clipboard(),
            150 => self.continuous_updates(),
            248 => return self.fence(),
            251 => self.desktop_size(),
            255 => return self.qemu(),
            other => return Err(ProtocolError::Message(other)),
        })
    }

    /// RFC 6143 §7.5.1.
    fn pixel_format(&mut self) -> Option<(ClientMessage, u64)> {
        self.take::<3>()?;
        Some((ClientMessage::SetPixelFormat(self.take()?), 0))
    }

    /// RFC 6143 §7.5.2.
    fn encodings(&mut self) -> Option<(ClientMessage, u64)> {
        self.take::<1>()?;
        let count = usize::from(self.u16()?);
        let kept = count.min(ENCODINGS_KEPT);
        let list: Option<Vec<i32>> =
            (0..kept).map(|_| self.take().map(i32::from_be_bytes)).collect();
        let left = count.saturating_sub(kept) as u64;
        Some((ClientMessage::SetEncodings(list?), left.saturating_mul(4)))
    }

    /// RFC 6143 §7.5.3.
    fn update_request(&mut self) -> Option<(ClientMessage, u64)> {
        let incremental = self.u8()? != 0;
        Some((ClientMessage::UpdateRequest { incremental, area: self.rect()? }, 0))
    }

    /// RFC 6143 §7.5.4.
    fn key(&mut self) -> Option<(ClientMessage, u64)> {
        let pressed = self.u8()? != 0;
        self.take::<2>()?;
        Some((ClientMessage::Key { keysym: self.u32()?, pressed, scan_code: None }, 0))
    }

    /// RFC 6143 §7.5.5.
    fn pointer(&mut self) -> Option<(ClientMessage, u64)> {
        let (buttons, x, y) = (self.u8()?, self.u16()?, self.u16()?);
        Some((ClientMessage::Pointer { buttons, x, y }, 0))
    }

    /// RFC 6143 §7.5.6. A negative length is the extended clipboard's, of that many bytes.
    fn clipboard(&mut self) -> Option<(ClientMessage, u64)> {
        self.take::<3>()?;
        let length = self.take().map(i32::from_be_bytes)?;
        Some((ClientMessage::Clipboard, length.unsigned_abs().into()))
    }

    /// rfbproto, EnableContinuousUpdates.
    fn continuous_updates(&mut self) -> Option<(ClientMessage, u64)> {
        let enable = self.u8()? != 0;
        Some((ClientMessage::ContinuousUpdates { enable, area: self.rect()? }, 0))
    }

    /// rfbproto, ClientFence.
    fn fence(&mut self) -> Result<Option<(ClientMessage, u64)>, ProtocolError> {
        let head = (self.take::<3>(), self.u32(), self.u8());
        let (Some(_), Some(flags), Some(length)) = head else { return Ok(None) };
        if usize::from(length) > FENCE_PAYLOAD {
            return Err(ProtocolError::Fence(length));
        }
        let Some((payload, rest)) = self.rest.split_at_checked(length.into()) else {
            return Ok(None);
        };
        self.rest = rest;
        Ok(Some((ClientMessage::Fence { flags, payload: payload.to_vec() }, 0)))
    }

    /// rfbproto, SetDesktopSize; the layout of screens does not matter, since none is taken.
    fn desktop_size(&mut self) -> Option<(ClientMessage, u64)> {
        self.take::<1>()?;
        let (width, height, screens) = (self.u16()?, self.u16()?, self.u8()?);
        self.take::<1>()?;
        let left = u64::from(screens).saturating_mul(16);
        Some((ClientMessage::SetDesktopSize { width, height }, left))
    }

    /// rfbproto, QEMU Client Message.
    fn qemu(&mut self) -> Result<Option<(ClientMessage, u64)>, ProtocolError> {
        match self.u8() {
            None => return Ok(None),
            Some(0) => {}
            Some(other) => return Err(ProtocolError::Qemu(other)),
        }
        let (Some(down), Some(keysym), Some(code)) = (self.u16(), self.u32(), self.u32()) else {
            return Ok(None);
        };
        let scan_code = Some(code);
        Ok(Some((ClientMessage::Key { keysym, pressed: down != 0, scan_code }, 0)))
    }
}

/// What a server says is put into its bytes here; coordinates beyond what 16 bits hold are cut.
pub mod server {
    use super::{Rect, pseudo};

    fn short(out: &mut Vec<u8>, value: u32) {
        out.extend(u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text.as_bytes());
    }

    /// ServerInit (RFC 6143 §7.3.2).
    pub fn init(out: &mut Vec<u8>, (width, height): (u32, u32), format: &[u8; 16], name: &str) {
        short(out, width);
        short(out, height);
        out.extend(format);
        text(out, name);
    }

    /// Begins a FramebufferUpdate (RFC 6143 §7.6.1); its number of rectangles is put in by
    /// [`finish_update`], with the answer.
    pub fn begin_update(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend([0; 4]);
        start
    }

    /// Ends what [`begin_update`] has begun.
    pub fn finish_update(out: &mut [u8], start: usize, rectangles: u16) {
        let at = start.saturating_add(2);
        if let Some(count) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *count = rectangles.to_be_bytes();
        }
    }

    /// A rectangle's head.
    pub fn rectangle(out: &mut Vec<u8>, area: &Rect, encoding: i32) {
        for value in [area.x, area.y, area.width, area.height] {
            short(out, value);
        }
        out.extend(encoding.to_be_bytes());
    }

    /// A new size, to a client that knows only DesktopSize.
    pub fn desktop_size(out: &mut Vec<u8>, (width, height): (u32, u32)) {
        rectangle(out, &Rect { x: 0, y: 0, width, height }, pseudo::DESKTOP_SIZE);
    }

    /// The size, with one screen of that size. `reason`: 0 the server's own, 1 this client asked;
    /// `status`: 0 done, 1 prohibited.
    pub fn extended_desktop_size(
        out: &mut Vec<u8>,
        (width, height): (u32, u32),
        reason: u32,
        status: u32,
    ) {
        let area = Rect { x: reason, y: status, width, height };
        rectangle(out, &area, pseudo::EXTENDED_DESKTOP_SIZE);
        out.extend([1, 0, 0, 0]);
        // Screen 0, at (0, 0), of this size, without flags.
        out.extend([0; 8]);
        short(out, width);
        short(out, height);
        out.extend([0; 4]);
    }

    /// The window's title.
    pub fn desktop_name(out: &mut Vec<u8>, name: &str) {
        rectangle(out, &Rect::default(), pseudo::DESKTOP_NAME);
        text(out, name);
    }

    /// The keyboard's lights, from the least bit: Scroll, Num and Caps Lock.
    pub fn led_state(out: &mut Vec<u8>, lights: u8) {
        rectangle(out, &Rect::default(), pseudo::LED_STATE);
        out.push(lights);
    }

    /// Extended key events are understood.
    pub fn extended_key(out: &mut Vec<u8>) {
        rectangle(out, &Rect::default(), pseudo::EXTENDED_KEY);
    }

    /// A fence, or the answer to one.
    pub fn fence(out: &mut Vec<u8>, flags: u32, payload: &[u8]) {
        out.extend([248, 0, 0, 0]);
        out.extend(flags.to_be_bytes());
        out.push(u8::try_from(payload.len()).unwrap_or(0));
        out.extend(payload);
    }

    /// Continuous updates are over, or are understood.
    pub fn end_of_continuous_updates(out: &mut Vec<u8>) {
        out.push(150);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every message in `bytes`, given in pieces of `piece` bytes.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<ClientMessage>, ProtocolError> {
        let (mut reader, mut input, mut found) = (MessageReader::default(), Vec::new(), Vec::new());
        for part in bytes.chunks(piece) {
            input.extend(part);
            loop {
                let (used, message) = reader.next(&input)?;
                input.drain(..used);
                assert!(used > 0 || message.is_none(), "a message without bytes");
                match message {
                    Some(message) => found.push(message),
                    None => break,
                }
            }
            assert!(input.len() < 2048, "{} bytes are kept", input.len());
        }
        Ok(found)
    }

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn every_message_in_pieces_of_any_size() {
        let mut bytes = vec![0, 9, 9, 9];
        bytes.extend(1..=16);
        bytes.extend([2, 9, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x21]);
        bytes.extend([3, 1, 0, 1, 0, 2, 1, 0, 0, 3]);
        bytes.extend([4, 1, 9, 9, 0, 0, 0xff, 0x0d]);
        bytes.extend([5, 0x81, 2, 1, 0, 7]);
        bytes.extend([6, 9, 9, 9, 0, 0, 0, 5]);
        bytes.extend(b"hello");
        bytes.extend([6, 9, 9, 9, 0xff, 0xff, 0xff, 0xfc, 1, 2, 3, 4]);
        bytes.extend([150, 1, 0, 0, 0, 0, 4, 0, 3, 0]);
        bytes.extend([248, 0, 0, 0, 0x80, 0, 0, 1, 2, 0xaa, 0xbb]);
        bytes.extend([251, 0, 4, 0, 3, 0, 2, 0]);
        bytes.extend([7; 32]);
        bytes.extend([255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e]);
        let want = vec![
            ClientMessage::SetPixelFormat(std::array::from_fn(|n| n as u8 + 1)),
            ClientMessage::SetEncodings(vec![16, pseudo::DESKTOP_SIZE]),
            ClientMessage::UpdateRequest { incremental: true, area: rect(1, 2, 256, 3) },
            ClientMessage::Key { keysym: 0xff0d, pressed: true, scan_code: None },
            ClientMessage::Pointer { buttons: 0x81, x: 513, y: 7 },
            ClientMessage::Clipboard,
            ClientMessage::Clipboard,
            ClientMessage::ContinuousUpdates { enable: true, area: rect(0, 0, 1024, 768) },
            ClientMessage::Fence { flags: 0x8000_0001, payload: vec![0xaa, 0xbb] },
            ClientMessage::SetDesktopSize { width: 1024, height: 768 },
            ClientMessage::Key { keysym: 0x61, pressed: true, scan_code: Some(0x1e) },
        ];
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(read(&bytes, piece).unwrap(), want, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_claimed_is_not_kept() {
        // A clipboard of 2 GiB, and 65,535 encodings, of which the first ones count.
        let mut reader = MessageReader::default();
        let head = [6, 0, 0, 0, 0x80, 0, 0, 0];
        assert_eq!(reader.next(&head), Ok((8, Some(ClientMessage::Clipboard))));
        assert_eq!(reader.next(&[4; 4096]), Ok((4096, None)));
        assert_eq!(reader.skip, (1 << 31) - 4096);

        let mut bytes = vec![2, 0, 0xff, 0xff];
        bytes.extend((0..65_535i32).flat_map(i32::to_be_bytes));
        bytes.extend([5, 0, 0, 0, 0, 0]);
        let found = read(&bytes, 500).unwrap();
        let kept = (0..ENCODINGS_KEPT as i32).collect();
        let pointer = ClientMessage::Pointer { buttons: 0, x: 0, y: 0 };
        assert_eq!(found, [ClientMessage::SetEncodings(kept), pointer]);
    }

    #[test]
    fn what_no_client_says_ends_it() {
        for (bytes, error) in [
            (&[1][..], ProtocolError::Message(1)),
            (&[7], ProtocolError::Message(7)),
            (b"GET", ProtocolError::Message(b'G')),
            (&[255, 1], ProtocolError::Qemu(1)),
            (&[248, 0, 0, 0, 0, 0, 0, 0, 65], ProtocolError::Fence(65)),
        ] {
            assert_eq!(read(bytes, 1), Err(error));
        }
    }

    #[test]
    fn golden_bytes_of_the_server() {
        let mut out = Vec::new();
        server::init(&mut out, (1024, 70_000), &[1; 16], "pet");
        assert_eq!(out[..4], [4, 0, 0xff, 0xff]);
        assert_eq!(out[20..], [0, 0, 0, 3, b'p', b'e', b't']);
        out.clear();
        let start = server::begin_update(&mut out);
        server::extended_desktop_size(&mut out, (640, 480), 1, 3);
        server::led_state(&mut out, 4);
        server::finish_update(&mut out, start, 2);
        let size = [2, 128, 1, 224];
        let mut want = vec![0, 0, 0, 2, 0, 1, 0, 3];
        want.extend(size);
        want.extend((-308i32).to_be_bytes());
        want.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        want.extend(size);
        want.extend([0; 12]);
        want.extend((-261i32).to_be_bytes());
        want.push(4);
        assert_eq!(out, want);
        out.clear();
        server::fence(&mut out, fence::REQUEST, b"x");
        server::end_of_continuous_updates(&mut out);
        assert_eq!(out, [248, 0, 0, 0, 0x80, 0, 0, 0, 1, b'x', 150]);
    }
}
