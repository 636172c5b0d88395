//! The screen over RFB (RFC 6143, and the community's description, rfbproto, of what it leaves out).
//!
//! From the outside in: [`client`] is the thread of one connection and the only file with I/O and
//! clocks; [`handshake`] lets a client in or not, [`auth`] being VNC's way with passwords; [`session`]
//! is what it does from then on, in the messages of [`rfb`], with [`hands`] and [`keyboard`] for what it
//! types; [`hub`] is what all clients share: the machine's screens and their [`painter`]. Pictures
//! become bytes in [`pixel`] and [`encode`], [`scroll`] finds what only moved; keys become the guest's in
//! [`keymap`].

pub mod auth;
pub mod changes;
pub mod client;
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
pub mod wire;

#[cfg(test)]
mod real_clients;
#[cfg(test)]
pub mod testkit;
