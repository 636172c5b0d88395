//! The C library's heap, which is not to open files.

#![allow(unsafe_code)] // mallopt(3).

/// Tells glibc how many arenas its heap may have. From version 2.39 it else looks up how many processors
/// there are, in a file below `/sys`, when the ninth thread wants memory: whichever that is, it may not.
/// musl's heap has no arenas.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number, and there are no threads yet that would read it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 8);
    }
}
