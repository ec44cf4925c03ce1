//! Registration of ring buffers with tokio's reactor.

use std::{io, os::fd::AsRawFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers `ring` for readability. `ring` must own the file descriptor it returns.
pub(super) fn readable<T: AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their map, whose descriptor stays open and unchanged for their
    // lifetime; the registration is dropped together with the ring.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}
