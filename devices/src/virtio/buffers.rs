//! One direction of a descriptor chain: pieces of guest memory, read or written front to back.
//!
//! Nothing is copied but what a device asks for by [`Buffers::read`] and [`Buffers::write`]; bulk
//! data goes from [`Buffers::pieces`] straight to the host's vectored I/O. How the driver cut its
//! buffers into descriptors never matters to a device (VIRTIO 1.3 §2.6.4).

use vm_memory::{Bytes, VolatileSlice};

/// Pieces of guest memory, in order, of which the first bytes may have been consumed.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    pieces: Vec<VolatileSlice<'m>>,
    /// The first piece that is not consumed.
    first: usize,
    /// Bytes not consumed.
    len: usize,
    begun: bool,
}

impl<'m> Buffers<'m> {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: VolatileSlice<'m>) {
        if !piece.is_empty() {
            self.len = self.len.saturating_add(piece.len());
            self.pieces.push(piece);
        }
    }

    /// Notes that the chain has reached this direction, if only with an empty buffer.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether the chain has reached this direction.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Forgets everything, but for the room to hold it.
    pub fn clear(&mut self) {
        self.pieces.clear();
        (self.first, self.len, self.begun) = (0, 0, false);
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left.
    pub fn pieces(&self) -> &[VolatileSlice<'m>] {
        &self.pieces[self.first..]
    }

    /// Consumes exactly `data.len()` bytes into `data`; or nothing, when fewer are left.
    pub fn read(&mut self, data: &mut [u8]) -> Option<()> {
        if data.len() > self.len {
            return None;
        }
        let mut done = 0;
        while done < data.len() {
            let piece = self.pieces.get(self.first)?;
            let count = piece.len().min(data.len() - done);
            piece.read_slice(&mut data[done..done + count], 0).ok()?;
            self.skip(count)?;
            done += count;
        }
        Some(())
    }

    /// Writes as much of `data` as there is room for, consumes that, and says how much it was.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(piece) = self.pieces.get(self.first) else { break };
            let count = piece.len().min(data.len() - done);
            if piece.write_slice(&data[done..done + count], 0).is_err() {
                break;
            }
            if self.skip(count).is_none() {
                break;
            }
            done += count;
        }
        done
    }

    /// Consumes `count` bytes unseen; `None` when fewer are left.
    pub fn skip(&mut self, mut count: usize) -> Option<()> {
        self.len = self.len.checked_sub(count)?;
        while count > 0 {
            let piece = self.pieces.get_mut(self.first)?;
            if count < piece.len() {
                *piece = piece.offset(count).ok()?;
                break;
            }
            count -= piece.len();
            self.first += 1;
        }
        Some(())
    }

    /// Takes the last byte away, as a piece of its own.
    pub fn split_last(&mut self) -> Option<VolatileSlice<'m>> {
        if self.len == 0 {
            return None;
        }
        let piece = self.pieces.pop()?;
        let (rest, last) = piece.split_at(piece.len() - 1).ok()?;
        if !rest.is_empty() {
            self.pieces.push(rest);
        }
        self.len -= 1;
        Some(last)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::mem::GuestRam;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()
    }

    fn pieces<'m>(memory: &'m GuestRam, lens: &[usize]) -> Buffers<'m> {
        let mut buffers = Buffers::default();
        let mut at = 0;
        for len in lens {
            buffers.push(memory.get_slice(GuestAddress(at), *len).unwrap());
            at += *len as u64;
        }
        buffers
    }

    #[test]
    fn the_cut_does_not_matter() {
        let memory = memory();
        let text = b"0123456789abcdef";
        for lens in [&[16][..], &[1, 15], &[3, 0, 5, 8], &[8, 7, 1]] {
            assert_eq!(pieces(&memory, lens).write(text), 16);
            let mut buffers = pieces(&memory, lens);
            let (mut head, mut tail) = ([0; 5], [0; 10]);
            buffers.read(&mut head).unwrap();
            assert_eq!(buffers.len(), 11);
            buffers.skip(1).unwrap();
            buffers.read(&mut tail).unwrap();
            assert_eq!((&head, &tail), (b"01234", b"6789abcdef"), "{lens:?}");
            assert!(buffers.is_empty() && buffers.pieces().is_empty());
        }
    }

    #[test]
    fn too_much_is_refused_or_cut() {
        let memory = memory();
        let mut buffers = pieces(&memory, &[2, 2]);
        assert!(buffers.read(&mut [0; 5]).is_none());
        assert_eq!(buffers.len(), 4);
        assert!(buffers.skip(5).is_none());
        assert_eq!(buffers.write(&[1; 9]), 4);
        assert_eq!(buffers.write(&[1; 9]), 0);
        assert!(buffers.split_last().is_none());
    }

    #[test]
    fn the_last_byte_can_be_taken_off() {
        let memory = memory();
        pieces(&memory, &[4]).write(b"abcd");
        for lens in [&[4][..], &[3, 1], &[1, 1, 1, 1]] {
            let mut buffers = pieces(&memory, lens);
            let last = buffers.split_last().unwrap();
            assert_eq!((buffers.len(), last.len()), (3, 1));
            let mut data = [0; 3];
            buffers.read(&mut data).unwrap();
            assert_eq!(&data, b"abc");
            assert_eq!(last.read_obj::<u8>(0).unwrap(), b'd');
        }
    }
}
