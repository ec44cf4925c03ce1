//! Raw frames at the client's end of the cable, for segments that no TCP implementation would send.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, OFlag};

use crate::{
    addresses::CLIENT_INTERFACE,
    frame::{ACK, Frame, LINUX_SYN_OPTIONS, SYN},
    namespace::Namespace,
};

/// A packet socket on the client's end of the cable.
pub struct Wire {
    socket: OwnedFd,
}

/// The fields of a response.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// TCP flags.
    pub flags: u8,
    /// Sequence number; for a SYN-ACK with a cookie, the cookie.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The server's timestamp, if the options are laid out as by Linux.
    pub timestamp: u32,
}

const TIMEOUT: Duration = Duration::from_secs(1);

impl Wire {
    /// Opens a packet socket in the namespace `client`.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn open(client: &Namespace) -> Result<Self> {
        Self::open_on(client, CLIENT_INTERFACE)
    }

    /// Opens a packet socket on `interface` of the namespace `client`.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn open_on(client: &Namespace, interface: &str) -> Result<Self> {
        let socket = packet_socket_on(client, interface)?;
        nix::fcntl::fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty())).context("cannot clear O_NONBLOCK")?;
        Ok(Self { socket })
    }

    /// Sends `frame`.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        self.send_bytes(&frame.build().bytes)
    }

    /// Sends a frame that [`Frame`] does not build, such as one with a wrong checksum.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        nix::unistd::write(&self.socket, bytes).map(drop).context("cannot send the frame")
    }

    /// Waits for the response to `frame`, matched by addresses and ports.
    ///
    /// # Errors
    /// Returns an error if none arrives within a second.
    pub fn answer_to(&self, frame: &Frame) -> Result<Answer> {
        let deadline = Instant::now() + TIMEOUT;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no response within {TIMEOUT:?}");
            }
            self.set_timeout(left)?;
            if let Ok(length) = nix::unistd::read(&self.socket, &mut buffer)
                && let Some(answer) = read_answer(&buffer[..length], frame)
            {
                return Ok(answer);
            }
        }
    }

    /// Returns the next frame; `None` if none arrives until `deadline`.
    ///
    /// # Errors
    /// Returns an error if no timeout can be set.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.set_timeout(left)?;
            if let Ok(length) = nix::unistd::read(&self.socket, &mut buffer) {
                return Ok(Some(buffer[..length].to_vec()));
            }
        }
    }

    fn set_timeout(&self, left: Duration) -> Result<()> {
        let timeout = nix::sys::time::TimeVal::new(0, i64::try_from(left.as_micros()).unwrap_or(1).clamp(1, 999_999));
        nix::sys::socket::setsockopt(&self.socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)
            .context("cannot set a timeout")
    }

    /// Sends a SYN and returns the SYN-ACK.
    ///
    /// # Errors
    /// Returns an error if the response is missing or is not a SYN-ACK.
    pub fn ask(&self, syn: &Frame) -> Result<Answer> {
        self.send(syn)?;
        let answer = self.answer_to(syn)?;
        ensure!(answer.flags & (SYN | ACK) == SYN | ACK, "the response is not a SYN-ACK: {answer:?}");
        Ok(answer)
    }
}

/// Opens a non-blocking packet socket on the client's end of the cable.
///
/// # Errors
/// Returns an error if the kernel rejects it.
pub fn packet_socket(client: &Namespace) -> Result<OwnedFd> {
    packet_socket_on(client, CLIENT_INTERFACE)
}

fn packet_socket_on(client: &Namespace, interface: &str) -> Result<OwnedFd> {
    client.within(|| {
        let index = nix::net::if_::if_nametoindex(interface).context("the lab's cable is unplugged")?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a call without pointers; nothing else owns the descriptor it returns.
        let socket = unsafe {
            let raw = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
            ensure!(raw >= 0, "cannot create a packet socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(raw)
        };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address has the type and length that are passed.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(result == 0, "cannot bind the packet socket: {}", io::Error::last_os_error());
        Ok(socket)
    })
}

/// Returns a SYN with the options that Linux sends.
pub fn linux_syn(source: std::net::IpAddr, server: std::net::IpAddr, port: u16) -> Frame {
    Frame { tcp_options: LINUX_SYN_OPTIONS.to_vec(), ..Frame::syn(source, server, port) }
}

/// Returns the ACK that completes the handshake of `syn`.
pub fn completion(syn: &Frame, answer: &Answer) -> Frame {
    let mut options = vec![1, 1, 8, 10, 0, 0, 0, 2];
    options.extend(answer.timestamp.to_be_bytes());
    Frame {
        flags: ACK,
        sequence: syn.sequence.wrapping_add(1),
        acknowledgement: answer.sequence.wrapping_add(1),
        tcp_options: options,
        ..syn.clone()
    }
}

/// Parses the response to `to`, or returns `None`. Only IPv4 without VLAN tags and IP options is recognised.
fn read_answer(bytes: &[u8], to: &Frame) -> Option<Answer> {
    let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let is_it = half(12)? == 0x0800
        && *bytes.get(23)? == 6
        && std::net::IpAddr::from(<[u8; 4]>::try_from(bytes.get(26..30)?).ok()?) == to.destination
        && std::net::IpAddr::from(<[u8; 4]>::try_from(bytes.get(30..34)?).ok()?) == to.source
        && (half(34)?, half(36)?) == (to.destination_port, to.source_port);
    is_it.then_some(())?;
    let timestamp = word(34 + 28).unwrap_or(0);
    Some(Answer { flags: *bytes.get(47)?, sequence: word(38)?, acknowledgement: word(42)?, timestamp })
}
