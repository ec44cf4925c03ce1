//! Waiting for a ring buffer on tokio's reactor.

use std::{io, os::fd::AsRawFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers `ring`, which owns the file descriptor it names, to be waited for until it can be read.
pub(super) fn readable<T: AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers own their map, whose descriptor stays open and the same as long as
    // they live; the registration ends when the ring is dropped with it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}
