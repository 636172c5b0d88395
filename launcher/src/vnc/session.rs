//! One client after its handshake: what it has asked for, and what it is sent. No I/O and no clock:
//! messages go in, bytes come out.
//!
//! An update is made only when the client has asked for one (RFC 6143 §7.5.3) or wants them
//! continuously (rfbproto), and when nothing of the one before waits any more; so a slow client gets
//! fewer pictures, never older ones. A client that understands fences has at most
//! [`UPDATES_UNDER_WAY`] continuous updates under way, however much its connection swallows.
//!
//! What differs from the client's picture is sent in rectangles of at most [`BAND_BYTES`], until the
//! update is as long as is allowed; what is left stays damage.

use devices::display::{Picture, Rect};
use devices::input::Leds;

use super::changes::Changes;
use super::encode::{Encoder, copy_rect};
use super::features::Features;
use super::hands::Hands;
use super::hub::{Viewer, Which};
use super::keyboard::KeyEvent;
use super::pixel::{FormatError, PixelFormat};
use super::rfb::{ClientMessage, ProtocolError, fence, pseudo, server};
use crate::server::passwords::Access;

/// Continuous updates that a client has not said to have taken.
const UPDATES_UNDER_WAY: u32 = 3;
/// About how many bytes of raw pixels go into one rectangle.
const BAND_BYTES: u32 = 1 << 20;
/// Rows that a band is a multiple of: a tile of ZRLE.
const BAND_ROWS: u32 = 64;
/// The most rectangles of pixels in an update: an encoder may make several of one.
const RECTANGLES: u32 = 16_384;
/// Size of the client's picture while there is none.
const NO_PICTURE: (u32, u32) = (640, 480);
/// Payload of our own fences.
const OUR_FENCE: &[u8] = b"berth";

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A message that no client sends.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Pixels that cannot be.
    #[error("pixel format: {0}")]
    Format(#[from] FormatError),
}

/// An update that the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    /// All of it, changed or not.
    all: bool,
    area: Rect,
}

/// A client.
pub struct Session {
    encoder: Encoder,
    format: PixelFormat,
    features: Features,
    /// What the client has to be told when it next gets an update.
    announce: Features,
    /// How the client's wish for a size is answered.
    refuse_size: bool,
    size: (u32, u32),
    shown: Which,
    leds: Option<Leds>,
    request: Option<Request>,
    continuous: Option<Rect>,
    under_way: u32,
    hands: Hands,
}

impl Session {
    /// Begins: `out` gets ServerInit.
    pub fn new(access: Access, viewer: &Viewer, out: &mut Vec<u8>) -> Session {
        let (shown, size) = viewer.look_on(|which, picture, _| (which, size_of(picture)));
        let format = PixelFormat::NATIVE;
        server::init(out, size, &format.to_bytes(), &title(viewer, shown));
        Session {
            encoder: Encoder::new(),
            format,
            features: Features::empty(),
            announce: Features::empty(),
            refuse_size: false,
            size,
            shown,
            leds: None,
            request: None,
            continuous: None,
            under_way: 0,
            hands: Hands::new(access),
        }
    }

    /// Takes what a client says.
    ///
    /// # Errors
    /// It makes no sense to go on.
    pub fn receive(
        &mut self,
        message: ClientMessage,
        viewer: &Viewer,
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        match message {
            ClientMessage::SetPixelFormat(bytes) => {
                self.format = PixelFormat::parse(&bytes)?;
                self.encoder.set_format(self.format);
                out.extend(self.format.colour_map().unwrap_or_default());
                // Its pointer has to be drawn anew.
                self.announce |= self.features & Features::CURSOR;
            }
            ClientMessage::SetEncodings(list) => {
                self.on_encodings(&list, out);
                viewer.copies(self.encoder.wishes().copy_rect);
            }
            ClientMessage::UpdateRequest { incremental, area } => {
                let waiting = self.request.unwrap_or(Request { all: false, area });
                let all = waiting.all || !incremental;
                self.request = Some(Request { all, area: around(&waiting.area, &area) });
            }
            ClientMessage::Key { keysym, pressed, scan_code } => {
                self.hands.on_key(KeyEvent { keysym, pressed, scan_code }, viewer);
            }
            ClientMessage::Pointer { buttons, x, y } => {
                self.hands.on_pointer(buttons, (x.into(), y.into()), self.size, viewer);
            }
            ClientMessage::Clipboard => {}
            ClientMessage::ContinuousUpdates { enable: true, area } => {
                self.continuous = Some(area);
            }
            ClientMessage::ContinuousUpdates { enable: false, .. } => {
                if self.continuous.take().is_some() {
                    server::end_of_continuous_updates(out);
                }
            }
            ClientMessage::Fence { flags, payload } => self.on_fence(flags, &payload, out),
            // The guest decides how large its screen is.
            ClientMessage::SetDesktopSize { .. } => {
                self.refuse_size = self.features.contains(Features::EXTENDED_RESIZE);
            }
        }
        Ok(())
    }

    /// Whether an update would be sent if there were something to say; `Some(true)`: in any case.
    pub fn wants_update(&self) -> Option<bool> {
        if let Some(request) = self.request {
            let news = !self.announce.is_empty() || self.refuse_size;
            return Some(request.all || news);
        }
        let free = self.under_way < UPDATES_UNDER_WAY || !self.features.contains(Features::FENCE);
        (self.continuous.is_some() && free).then_some(false)
    }

    /// Adds an update of about `limit` bytes at most, if there is something that the client waits
    /// for.
    pub fn update(&mut self, viewer: &Viewer, limit: usize, out: &mut Vec<u8>) -> bool {
        if self.wants_update().is_none() {
            return false;
        }
        let leds = viewer.leds();
        let start = server::begin_update(out);
        let said = viewer.look_on(|which, picture, changes| {
            let mut said = self.announce(which, picture, leds, viewer, out);
            if !said.last {
                let end = start.saturating_add(limit);
                let pixels = self.pixels(picture, changes, end, out);
                said.rectangles = said.rectangles.saturating_add(pixels);
            }
            said.rectangles
        });
        let all = self.request.is_some_and(|request| request.all);
        if said == 0 && !all {
            out.truncate(start);
            return false;
        }
        server::finish_update(out, start, u16::try_from(said).unwrap_or(u16::MAX));
        if self.request.take().is_none() && self.features.contains(Features::FENCE) {
            self.under_way = self.under_way.saturating_add(1);
            server::fence(out, fence::REQUEST | fence::BLOCK_BEFORE, OUR_FENCE);
        }
        true
    }

    /// The client has gone: what it holds is released.
    pub fn end(&mut self, viewer: &Viewer) {
        self.hands.let_go(viewer);
    }

    fn on_encodings(&mut self, list: &[i32], out: &mut Vec<u8>) {
        self.encoder.set_encodings(list);
        let features = Features::of(list);
        let new = features & !self.features;
        self.features = features;
        self.announce = (self.announce | new) & features;
        // Both are told of by a message of their own.
        if new.contains(Features::FENCE) {
            server::fence(out, fence::REQUEST, &[]);
        }
        if new.contains(Features::CONTINUOUS) {
            server::end_of_continuous_updates(out);
        }
        self.announce -= Features::FENCE | Features::CONTINUOUS | Features::RESIZE;
    }

    /// rfbproto, ClientFence: one that asks is answered; everything here happens in order, so there
    /// is nothing to wait for.
    fn on_fence(&mut self, flags: u32, payload: &[u8], out: &mut Vec<u8>) {
        if flags & fence::REQUEST != 0 {
            server::fence(out, flags & fence::KNOWN & !fence::REQUEST, payload);
        } else if payload == OUR_FENCE {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// Adds rectangles that are not pixels.
    fn announce(
        &mut self,
        which: Which,
        picture: &Picture,
        leds: Leds,
        viewer: &Viewer,
        out: &mut Vec<u8>,
    ) -> Said {
        let mut said = Said::default();
        let announce = std::mem::take(&mut self.announce);
        if announce.contains(Features::EXTENDED_KEY) {
            server::extended_key(out);
            said.rectangles += 1;
        }
        if self.features.contains(Features::NAME)
            && (which != self.shown || announce.contains(Features::NAME))
        {
            server::desktop_name(out, &title(viewer, which));
            said.rectangles += 1;
        }
        self.shown = which;
        if self.features.contains(Features::LEDS)
            && (self.leds != Some(leds) || announce.contains(Features::LEDS))
        {
            self.leds = Some(leds);
            server::led_state(out, leds.bits());
            said.rectangles += 1;
        }
        if announce.contains(Features::CURSOR) {
            dot(self.format, out);
            said.rectangles += 1;
        }
        let size = size_of(picture);
        let extended = self.features.contains(Features::EXTENDED_RESIZE);
        if std::mem::take(&mut self.refuse_size) {
            server::extended_desktop_size(out, self.size, 1, 1);
            said.rectangles += 1;
        }
        let resized = size != self.size && self.features.intersects(Features::SIZES);
        if resized {
            self.size = size;
            // No pixels of the new picture before the client has heard of its size.
            said.last = true;
        }
        if extended && (resized || announce.contains(Features::EXTENDED_RESIZE)) {
            server::extended_desktop_size(out, self.size, 0, 0);
            said.rectangles += 1;
        } else if resized {
            server::desktop_size(out, self.size);
            said.rectangles += 1;
        }
        said
    }

    /// Adds what of the picture the client waits for, up to about `end` bytes, and answers how many
    /// rectangles that are.
    fn pixels(
        &mut self,
        picture: &Picture,
        changes: &mut Changes,
        end: usize,
        out: &mut Vec<u8>,
    ) -> u32 {
        let area = match (self.request, self.continuous) {
            (Some(request), _) => request.area,
            (None, Some(area)) => area,
            (None, None) => return 0,
        };
        let (width, height) = self.size;
        let area = area.intersection(&Rect { x: 0, y: 0, width, height });
        let mut count = 0u32;
        if let Some(scroll) = changes.take_scroll(&area, picture) {
            copy_rect(&scroll.to, scroll.to.x, scroll.from_y, out);
            count += 1;
        }
        let damage = changes.damage();
        if self.request.is_some_and(|request| request.all) {
            damage.add(&area);
        }
        let mut rects = damage.take(&area);
        let mut cut = None;
        if (picture.width(), picture.height()) != self.size {
            // A client that cannot follow sees what fits, and black around it.
            let all = self.request.is_some_and(|request| request.all);
            if rects.is_empty() && !all {
                return 0;
            }
            cut = Some(cut_to(picture, self.size));
            rects = vec![Rect { x: 0, y: 0, width, height }];
        }
        let picture = cut.as_ref().unwrap_or(picture);
        let mut bands = rects.iter().flat_map(bands);
        for band in bands.by_ref() {
            let made = self.encoder.encode(picture, band, out);
            count = count.saturating_add(made.into());
            if out.len() >= end || count >= RECTANGLES {
                break;
            }
        }
        bands.for_each(|rest| damage.add(&rest));
        count
    }
}

/// What was announced.
#[derive(Default)]
struct Said {
    rectangles: u32,
    /// No pixels may follow.
    last: bool,
}

/// How large a picture is for a client.
fn size_of(picture: &Picture) -> (u32, u32) {
    match (picture.width(), picture.height()) {
        (0, _) | (_, 0) => NO_PICTURE,
        size => size,
    }
}

/// What a viewer's window is called.
fn title(viewer: &Viewer, shown: Which) -> String {
    let name = &viewer.desk().name;
    match shown {
        Which::Display => name.clone(),
        Which::Terminal => format!("{name} (serial console)"),
    }
}

/// A rectangle in bands, from top to bottom.
fn bands(rect: &Rect) -> impl Iterator<Item = Rect> + use<> {
    let rect = *rect;
    let fits = (BAND_BYTES / 4).checked_div(rect.width).unwrap_or(1);
    let rows = (fits / BAND_ROWS).max(1).saturating_mul(BAND_ROWS);
    (0..rect.height).step_by(rows as usize).map(move |y| Rect {
        y: rect.y.saturating_add(y),
        height: rect.height.saturating_sub(y).min(rows),
        ..rect
    })
}

/// A picture of another size: the upper left of `picture`, black where there is none.
fn cut_to(picture: &Picture, (width, height): (u32, u32)) -> Picture {
    let mut cut = Picture::new(width, height);
    for y in 0..height {
        for (to, from) in cut.row_mut(y).iter_mut().zip(picture.row(y)) {
            *to = *from;
        }
    }
    cut
}

/// The rectangle around two.
fn around(a: &Rect, b: &Rect) -> Rect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let right = a.x.saturating_add(a.width).max(b.x.saturating_add(b.width));
    let bottom = a.y.saturating_add(a.height).max(b.y.saturating_add(b.height));
    Rect { x, y, width: right.saturating_sub(x), height: bottom.saturating_sub(y) }
}

/// The shape of the client's own pointer (rfbproto, Cursor): a dot. The guest paints its own; the
/// dot says where that should be, and is all there is to see while the guest has none.
fn dot(format: PixelFormat, out: &mut Vec<u8>) {
    const SIDE: u32 = 3;
    server::rectangle(out, &Rect { x: 1, y: 1, width: SIDE, height: SIDE }, pseudo::CURSOR);
    let mut picture = Picture::new(SIDE, SIDE);
    if let Some(middle) = picture.row_mut(1).get_mut(1) {
        *middle = 0x00ff_ffff;
    }
    // Raw pixels, without the head of their rectangle.
    let (mut encoder, mut pixels) = (Encoder::new(), Vec::new());
    encoder.set_format(format);
    encoder.encode(&picture, Rect { x: 0, y: 0, width: SIDE, height: SIDE }, &mut pixels);
    out.extend(pixels.get(12..).unwrap_or_default());
    // The mask: three rows of three pixels, from the most significant bit.
    out.extend([0xe0; SIDE as usize]);
}

#[cfg(test)]
mod tests;
