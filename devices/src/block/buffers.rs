//! A list of buffers seen as one run of bytes: cut, filled, copied.
//!
//! Buffers are guest memory or the host's own; both are volatile slices here, and never become
//! Rust references. Pure memory work, on the calling thread.

use vm_memory::VolatileSlice;

/// Source of zeroes for [`fill_zero`].
static ZEROES: [u8; 4096] = [0; 4096];

/// Length of all buffers together, in bytes.
pub(super) fn total(bufs: &[VolatileSlice<'_>]) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}

/// The `len` bytes from `from`, as a list of their own; shorter if `bufs` is.
pub(super) fn part<'m>(bufs: &[VolatileSlice<'m>], from: u64, len: u64) -> Vec<VolatileSlice<'m>> {
    let mut skip = from;
    let mut left = len;
    let mut parts = Vec::with_capacity(bufs.len());
    for buf in bufs {
        if left == 0 {
            break;
        }
        let size = buf.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = left.min(size - skip);
        if let Ok(piece) = buf.subslice(skip as usize, take as usize) {
            parts.push(piece);
        }
        skip = 0;
        left -= take;
    }
    parts
}

/// Fills every buffer with zeroes.
pub(super) fn fill_zero(bufs: &[VolatileSlice<'_>]) {
    for buf in bufs {
        let mut at = 0;
        while let Ok(rest) = buf.offset(at)
            && !rest.is_empty()
        {
            rest.copy_from(&ZEROES);
            at += rest.len().min(ZEROES.len());
        }
    }
}

/// Copies `bytes` into the buffers, as far as both reach.
pub(super) fn copy_from_bytes(bufs: &[VolatileSlice<'_>], mut bytes: &[u8]) {
    for buf in bufs {
        let n = buf.len().min(bytes.len());
        let (now, rest) = bytes.split_at(n);
        buf.copy_from(now);
        bytes = rest;
    }
}

/// The buffers' contents.
#[cfg(test)]
pub(super) fn to_vec(bufs: &[VolatileSlice<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; total(bufs) as usize];
    let mut at = 0;
    for buf in bufs {
        buf.copy_to(&mut bytes[at..at + buf.len()]);
        at += buf.len();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_crosses_buffers() {
        let (mut a, mut b, mut c) = (*b"abc", *b"", *b"defgh");
        let bufs = [&mut a[..], &mut b[..], &mut c[..]].map(VolatileSlice::from);
        assert_eq!(to_vec(&part(&bufs, 1, 4)), b"bcde");
        assert_eq!(to_vec(&part(&bufs, 3, 100)), b"defgh");
        assert!(part(&bufs, 8, 1).is_empty());
        assert_eq!(total(&bufs), 8);
    }

    #[test]
    fn zeroes_and_copies_reach_every_byte() {
        let mut a = vec![9u8; 4096 * 2 + 3];
        let mut b = [9u8; 5];
        {
            let bufs = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
            fill_zero(&bufs);
            copy_from_bytes(&part(&bufs, 8194, 3), b"xyz");
        }
        assert!(a[..8194].iter().all(|v| *v == 0));
        assert_eq!((a[8194], &b[..]), (b'x', &b"yz\0\0\0"[..]));
    }
}
