//! The C library's heap, which is not to open files.

#![allow(unsafe_code)] // mallopt(3).

/// Tells glibc to have one arena for all threads. Of further ones it gives memory back only after a look
/// into a file below `/proc`, and from version 2.39 it counts the processors, in one below `/sys`, before
/// it makes a ninth: whichever thread that is, it may not. musl's heap has no arenas.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number, and there are no threads yet that would read it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
