//! The plain engine: one request after the other, by calls to the backend. It is what remains
//! where the kernel allows no io_uring.

use super::request::{Disk, Kind, Request, S_OK};
use crate::event::Event;
use crate::virtio::Interrupt;
use crate::virtio::queue::{Chain, Virtqueue};
use crate::virtio::service::{ServiceError, serve_each};

/// Serves the queue until `stop`.
///
/// # Errors
/// When the rings cannot be served.
pub fn serve(
    disk: &Disk,
    queue: &mut Virtqueue<'_>,
    interrupt: &dyn Interrupt,
    stop: &Event,
) -> Result<(), ServiceError> {
    serve_each(queue, interrupt, stop, |chain| execute(disk, chain))
}

/// Does one request, status included; returns how many bytes were written to guest memory.
fn execute(disk: &Disk, chain: &mut Chain<'_>) -> u32 {
    let Some(request) = Request::parse(chain) else { return 0 };
    let (status, written) = match request.kind {
        Kind::In => (transfer(disk, &request, chain), chain.writable.len()),
        Kind::Out => (transfer(disk, &request, chain), 0),
        Kind::Flush => {
            let done = disk.backend.flush();
            disk.count(Kind::Flush, 0);
            (done.map_or_else(|error| disk.refuse(&error), |()| S_OK), 0)
        }
        Kind::Other(kind) => disk.other(kind, chain),
    };
    request.finish(status);
    u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1)
}

fn transfer(disk: &Disk, request: &Request<'_>, chain: &Chain<'_>) -> u8 {
    let data = if request.kind == Kind::In { &chain.writable } else { &chain.readable };
    let offset = match disk.locate(request.kind, request.sector, data.len()) {
        Ok(offset) => offset,
        Err(status) => return status,
    };
    let done = match request.kind {
        _ if data.is_empty() => Ok(()),
        Kind::In => disk.backend.read_at(data.pieces(), offset),
        _ => disk
            .backend
            .write_at(data.pieces(), offset)
            .and_then(|()| if disk.write_through { disk.backend.flush() } else { Ok(()) }),
    };
    match done {
        Ok(()) => {
            disk.count(request.kind, data.len());
            S_OK
        }
        Err(error) => disk.refuse(&error),
    }
}
