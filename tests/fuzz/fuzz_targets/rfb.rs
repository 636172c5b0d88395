//! A viewer's bytes, from its version on: no panic, no access without a password, and answers no
//! longer than they should be. An input's first byte says how it is cut in pieces, and what is offered.
#![no_main]

// The launcher is a program, not a library: these modules of it stand alone.
#[path = "../../../launcher/src/server"]
#[allow(dead_code)]
mod server {
    pub mod guard;
    pub mod passwords;
}
#[path = "../../../launcher/src/vnc"]
#[allow(dead_code)]
mod vnc {
    pub mod auth;
    pub mod changes;
    pub mod encode;
    pub mod features;
    pub mod hands;
    pub mod handshake;
    pub mod hub;
    pub mod keyboard;
    pub mod keymap;
    pub mod painter;
    pub mod pixel;
    pub mod rfb;
    pub mod scroll;
    pub mod session;
}

use std::sync::OnceLock;
use std::time::Duration;

use devices::display::{Damage, Picture, Screen};
use libfuzzer_sys::fuzz_target;
use server::guard::Verdict;
use server::passwords::Access;
use vnc::handshake::{Handshake, Offer, Step};
use vnc::hub::{Desk, Hub};
use vnc::rfb::MessageReader;
use vnc::session::Session;

const SIDE: u32 = 100;
/// More than all answers to one piece: one update of this screen, and fences.
const ANSWERS: usize = 1 << 20;

/// A white screen.
struct White;

impl Screen for White {
    fn watch(&self, _: bool) {}

    fn paint(&self, picture: &mut Picture, damage: &mut Damage) {
        if picture.width() != SIDE {
            *picture = Picture::new(SIDE, SIDE);
            (0..SIDE).for_each(|y| picture.row_mut(y).fill(0x00ff_ffff));
            *damage = Damage::new(SIDE, SIDE);
            damage.add_all();
        }
    }
}

fn hub() -> &'static Hub {
    static HUB: OnceLock<Hub> = OnceLock::new();
    HUB.get_or_init(|| {
        let display = Some(std::sync::Arc::new(White) as _);
        let hub = Hub::start(Desk { name: "fuzz".to_owned(), display, ..Desk::default() })
            .expect("there are threads");
        hub.picture(Duration::from_secs(60)).expect("it is painted");
        hub
    })
}

/// A client comes in, or not; what is left of its bytes.
fn enter(data: &[u8], how: u8) -> Option<(&[u8], Access)> {
    let password = how & 1 != 0;
    let offer = Offer { password, tls: how & 2 != 0, plain: how & 4 != 0, refusal: None };
    let (mut out, mut asked) = (Vec::new(), false);
    let mut handshake = Handshake::new(offer, [7; 16], &mut out);
    let mut check = |_: &[u8; 16], answer: &[u8]| {
        assert_eq!(answer.len(), 16);
        asked = true;
        if answer.starts_with(b"R") { Verdict::Admitted(Access::Full) } else { Verdict::Wrong }
    };
    let mut rest = data;
    loop {
        let (used, step) = handshake.step(rest, &mut check, &mut out).ok()?;
        assert!(out.len() < 1024);
        rest = rest.get(used..).expect("no more than there is");
        match step {
            Step::More => return None,
            Step::StartTls => handshake.secured(&mut out),
            Step::Done(admission) => {
                assert!(asked || !password, "somebody is in without a password");
                return Some((rest, admission.access));
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else { return };
    let (rest, access) = match how & 8 {
        0 => (data, Access::Full),
        _ => match enter(data, *how) {
            Some(entered) => entered,
            None => return,
        },
    };
    let viewer = hub().join().expect("there are descriptors");
    let mut out = Vec::new();
    let mut session = Session::new(access, &viewer, &mut out);
    let mut reader = MessageReader::default();
    let mut input = Vec::new();
    for piece in rest.chunks(usize::from(how >> 4) * 16 + 1) {
        input.extend(piece);
        loop {
            let Ok((used, message)) = reader.next(&input) else { return };
            input.drain(..used);
            let Some(message) = message else { break };
            if session.receive(message, &viewer, &mut out).is_err() {
                return;
            }
        }
        assert!(input.len() < 2048 + 256, "{} bytes are kept", input.len());
        session.update(&viewer, 1 << 20, &mut out);
        assert!(out.len() < ANSWERS, "{} bytes of answers", out.len());
        out.clear();
    }
    session.end(&viewer);
});
