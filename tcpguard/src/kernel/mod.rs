//! What the kernel itself holds: handshakes that are half open, listeners with their backlog, and
//! what it counts. Behind a trait, so that what is decided from it can be tested without a kernel.

mod netstat;
mod sock_diag;
mod spread;

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

pub use netstat::TcpExt;
pub use sock_diag::SockDiag;
pub use spread::Spread;

/// A handshake in state SYN_RECV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// The side that listens.
    pub local: SocketAddr,
    /// The side that asked.
    pub remote: SocketAddr,
    /// Since about when, by the retransmit timer.
    pub age: Duration,
    /// How often the SYN-ACK was sent again.
    pub retransmits: u8,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Where it listens.
    pub local: SocketAddr,
    /// Completed connections that wait to be accepted.
    pub accept_queue: u32,
    /// How many of these, and of half-open ones, there may be.
    pub backlog: u32,
    /// It takes nothing that comes by IPv4, although it listens on an IPv6 address.
    pub is_ipv6_only: bool,
    /// The interface that it is bound to (`SO_BINDTODEVICE`); 0 for none.
    pub interface: u32,
    /// Bytes of its receive buffer, where the kernel tells.
    pub receive_buffer: Option<u32>,
}

impl Listener {
    /// One that listens on this address, with nothing special about it.
    pub const fn new(local: SocketAddr, accept_queue: u32, backlog: u32) -> Self {
        Self { local, accept_queue, backlog, is_ipv6_only: false, interface: 0, receive_buffer: None }
    }

    /// Whether it has no room for another connection (`sk_acceptq_is_full`): its application does not accept
    /// as fast as handshakes complete.
    pub const fn is_full(&self) -> bool {
        self.accept_queue > self.backlog
    }
}

/// Half-open handshakes: how many there are in all, and the rows, of which there may be fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenTable {
    /// All of them.
    pub total: usize,
    /// Those whose SYN-ACK was sent again.
    pub retried: usize,
    /// All, and those sent again, by local port.
    pub by_port: BTreeMap<u16, PortHalfOpen>,
    /// The first [`MOST_ROWS`] of them.
    pub rows: Vec<HalfOpen>,
}

/// Half-open handshakes of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortHalfOpen {
    /// All of them.
    pub total: usize,
    /// Those whose SYN-ACK was sent again.
    pub retried: usize,
}

/// Rows that are kept; more are counted only. Backlogs bound them well below this.
pub const MOST_ROWS: usize = 65_536;

impl HalfOpenTable {
    /// Counts one, and keeps it while there is room.
    pub fn add(&mut self, row: HalfOpen) {
        let is_retried = usize::from(row.retransmits > 0);
        self.total += 1;
        self.retried += is_retried;
        let port = self.by_port.entry(row.local.port()).or_default();
        port.total += 1;
        port.retried += is_retried;
        if self.rows.len() < MOST_ROWS {
            self.rows.push(row);
        }
    }
}

/// The kernel's own view.
pub trait KernelView: Send {
    /// Handshakes in state SYN_RECV.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn half_open(&mut self) -> io::Result<HalfOpenTable>;

    /// Listening sockets.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn listeners(&mut self) -> io::Result<Vec<Listener>>;

    /// The kernel's counters.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn tcp_ext(&mut self) -> io::Result<TcpExt>;
}

/// The kernel that this runs on, in the network namespace that this runs in.
pub struct LiveKernel {
    sockets: SockDiag,
}

impl LiveKernel {
    /// Opens the channel to the kernel.
    ///
    /// # Errors
    /// Where there is none (CONFIG_INET_DIAG).
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
