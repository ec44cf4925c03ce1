//! The kernel's own view of TCP: half-open handshakes, listeners with their backlog, and counters. It is
//! behind a trait, so that decisions based on it can be tested without a kernel.

mod listeners;
mod netstat;
mod sock_diag;
mod spread;
mod translation;

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

pub use listeners::Listeners;
pub use netstat::TcpExt;
pub use sock_diag::{Established, SockDiag};
pub use spread::Spread;
pub use translation::Translation;

/// A handshake in state `SYN_RECV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// The address and port of the listener.
    pub local: SocketAddr,
    /// The address and port of the client.
    pub remote: SocketAddr,
    /// The approximate age, derived from the retransmit timer.
    pub age: Duration,
    /// How often the SYN-ACK was retransmitted.
    pub retransmits: u8,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The address and port it listens on.
    pub local: SocketAddr,
    /// Completed connections waiting to be accepted.
    pub accept_queue: u32,
    /// The limit of the accept queue, and of half-open handshakes.
    pub backlog: u32,
    /// Whether it accepts IPv6 only (`IPV6_V6ONLY`); false for an IPv4 listener.
    pub is_ipv6_only: bool,
    /// The index of the interface that it is bound to (`SO_BINDTODEVICE`); 0 for none.
    pub interface: u32,
    /// The size of the receive buffer in bytes, if the kernel reports it.
    pub receive_buffer: Option<u32>,
    /// Whether it has keys for MD5 signatures (RFC 2385).
    pub has_md5_keys: bool,
}

impl Listener {
    /// Creates a listener with default values for the other fields.
    pub const fn new(local: SocketAddr, accept_queue: u32, backlog: u32) -> Self {
        Self {
            local,
            accept_queue,
            backlog,
            is_ipv6_only: false,
            interface: 0,
            receive_buffer: None,
            has_md5_keys: false,
        }
    }

    /// Returns whether other hosts can reach it: what arrives at an interface never reaches a listener on the loopback
    /// address.
    pub const fn is_reachable(&self) -> bool {
        !self.local.ip().is_loopback()
    }

    /// Returns whether the accept queue is full (`sk_acceptq_is_full`): the application accepts more slowly
    /// than handshakes complete.
    pub const fn is_full(&self) -> bool {
        self.accept_queue > self.backlog
    }
}

/// The half-open handshakes: their counts, and up to [`MAX_ROWS`] rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenTable {
    /// All half-open handshakes.
    pub total: usize,
    /// Handshakes whose SYN-ACK was retransmitted.
    pub retried: usize,
    /// The same counts by local port.
    pub by_port: BTreeMap<u16, PortHalfOpen>,
    /// The first [`MAX_ROWS`] handshakes.
    pub rows: Vec<HalfOpen>,
}

/// The half-open handshakes of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortHalfOpen {
    /// All half-open handshakes of the port.
    pub total: usize,
    /// Handshakes whose SYN-ACK was retransmitted.
    pub retried: usize,
}

/// The maximum number of rows kept; further ones are only counted. Backlogs keep the number well below this.
pub const MAX_ROWS: usize = 65_536;

impl HalfOpenTable {
    /// Counts a handshake, and keeps its row while there are fewer than [`MAX_ROWS`].
    pub fn add(&mut self, row: HalfOpen) {
        let is_retried = usize::from(row.retransmits > 0);
        self.total += 1;
        self.retried += is_retried;
        let port = self.by_port.entry(row.local.port()).or_default();
        port.total += 1;
        port.retried += is_retried;
        if self.rows.len() < MAX_ROWS {
            self.rows.push(row);
        }
    }
}

/// Access to the kernel's view of TCP.
pub trait KernelView: Send {
    /// Returns the handshakes in state `SYN_RECV`.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    fn half_open(&mut self) -> io::Result<HalfOpenTable>;

    /// Returns the listening sockets.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    fn listeners(&mut self) -> io::Result<Vec<Listener>>;

    /// Returns the kernel's TCP counters.
    ///
    /// # Errors
    /// Returns an error if the counters cannot be read.
    fn tcp_ext(&mut self) -> io::Result<TcpExt>;
}

/// The running kernel, in the current network namespace.
pub struct LiveKernel {
    sockets: SockDiag,
}

impl LiveKernel {
    /// Opens the socket for queries.
    ///
    /// # Errors
    /// Returns an error if the kernel does not support sock_diag (CONFIG_INET_DIAG).
    pub fn open() -> io::Result<Self> {
        Ok(Self { sockets: SockDiag::open()? })
    }
}

impl KernelView for LiveKernel {
    fn half_open(&mut self) -> io::Result<HalfOpenTable> {
        let mut table = HalfOpenTable::default();
        self.sockets.for_each_half_open(|row| table.add(row))?;
        Ok(table)
    }

    fn listeners(&mut self) -> io::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        self.sockets.for_each_listener(|listener| listeners.push(listener))?;
        Ok(listeners)
    }

    fn tcp_ext(&mut self) -> io::Result<TcpExt> {
        TcpExt::read()
    }
}
