//! Which key a client means: by the key's place ([`xt`], QEMU extended key event), or by what it
//! writes ([`keysym`], RFC 6143 §7.5.4), as if the guest's keyboard were a US one.

pub mod keysym;
pub mod xt;
