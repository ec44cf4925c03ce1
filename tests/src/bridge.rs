//! Forwards connections from a TCP port to a daemon that is not reachable on it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

const PAUSE: Duration = Duration::from_millis(2);

/// A stream that can be one side of a bridge.
pub trait Side: Read + Write + Send + Sized + 'static {
    /// Returns another handle of the stream.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptor left.
    fn another(&self) -> io::Result<Self>;

    /// Shuts down one or both directions.
    ///
    /// # Errors
    /// Returns an error if the stream is already closed.
    fn end(&self, how: Shutdown) -> io::Result<()>;
}

impl Side for TcpStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}

impl Side for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}

/// Forwards connections until it is dropped.
pub struct Bridge {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Forwards each connection of `listener` to a stream that `connect` opens.
    ///
    /// # Errors
    /// Returns an error if the listener cannot be used.
    pub fn start<S: Side>(listener: TcpListener, connect: impl Fn() -> Result<S> + Send + 'static) -> Result<Self> {
        listener.set_nonblocking(true).context("the listener cannot be used")?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // A connection that cannot be forwarded is closed.
                match listener.accept().map(|(stream, _)| (stream, connect())) {
                    Ok((stream, Ok(far))) => drop(thread::spawn(move || carry(stream, far))),
                    Ok((_, Err(_))) => {}
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        });
        Ok(Self { is_over, thread: Some(thread) })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Copies in both directions until one side ends.
fn carry<S: Side>(near: TcpStream, far: S) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let (mut to_far, mut from_near) = (far.another()?, near.another()?);
    let (mut from_far, mut to_near) = (far, near);
    thread::spawn(move || {
        let copied = io::copy(&mut from_near, &mut to_far);
        to_far.end(Shutdown::Write).ok();
        copied
    });
    let copied = io::copy(&mut from_far, &mut to_near);
    to_near.end(Shutdown::Both)?;
    copied.map(drop)
}
