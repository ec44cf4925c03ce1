//! Queries of the kernel's TCP sockets (sock_diag(7)), like `ss`.

use std::{io, net::SocketAddr, time::Duration};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use super::{HalfOpen, Listener};
use crate::netlink;

/// The kernel sends dumps in messages of up to 32 KiB.
pub(super) const RECEIVE_BUFFER: usize = 65_536;

/// See [`netlink::open`].
pub(super) const PATIENCE_SECONDS: i64 = 1;

/// The attribute of a socket that has keys for MD5 signatures (include/uapi/linux/inet_diag.h). The kernel sends it to
/// whoever has CAP_NET_ADMIN.
const INET_DIAG_MD5SIG: u16 = 18;
/// INET_DIAG_NOCOOKIE: any socket with these addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// A socket's state (include/net/tcp_states.h).
const TCP_ESTABLISHED: u8 = 1;
/// Where `struct tcp_info` (include/uapi/linux/tcp.h) has the numbers of bytes acknowledged and received.
const TCP_INFO_BYTES: [usize; 2] = [120, 128];

/// An established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// This host's address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The inode of the socket.
    pub inode: u64,
    /// Whether the peer has acknowledged data and sent some.
    pub has_data_in_both_directions: bool,
}

impl Established {
    fn of(response: &InetResponse) -> Self {
        let id = &response.header.socket_id;
        let info = response.nlas.iter().find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => Some(info.as_slice()),
            _ => None,
        });
        // One byte stands for the SYN.
        let is_above_one = |offset: usize| {
            let number = info?.get(offset..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))?;
            Some(number > 1)
        };
        Self {
            local: address(id.source_address, id.source_port),
            remote: address(id.destination_address, id.destination_port),
            inode: response.header.inode.into(),
            has_data_in_both_directions: TCP_INFO_BYTES.iter().all(|offset| is_above_one(*offset) == Some(true)),
        }
    }
}

/// A netlink socket for queries of the kernel's socket tables.
pub struct SockDiag {
    socket: Socket,
    buffer: Vec<u8>,
    /// The sequence number of the current dump, to tell its messages from those of an aborted one.
    sequence: u32,
}

impl SockDiag {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// Returns an error if the kernel does not support sock_diag.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(NETLINK_SOCK_DIAG, PATIENCE_SECONDS)?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_BUFFER], sequence: 0 })
    }

    /// Calls `visit` for each handshake in state `SYN_RECV`.
    pub(super) fn for_each_half_open(&mut self, mut visit: impl FnMut(HalfOpen)) -> io::Result<()> {
        self.dump(StateFlags::SYN_RECV, ExtensionFlags::empty(), |response| {
            let response = &response.header;
            let (age, retransmits) = match response.timer {
                Some(Timer::Retransmit(expires, retransmits)) => (age(expires, retransmits), retransmits),
                _ => (Duration::ZERO, 0),
            };
            let local = address(response.socket_id.source_address, response.socket_id.source_port);
            let remote = address(response.socket_id.destination_address, response.socket_id.destination_port);
            visit(HalfOpen { local, remote, age, retransmits });
        })
    }

    /// Calls `visit` for each listening socket.
    pub(super) fn for_each_listener(&mut self, mut visit: impl FnMut(Listener)) -> io::Result<()> {
        // The kernel reports keys only to those who ask for INFO as well (inet_sk_diag_fill).
        self.dump(StateFlags::LISTEN, ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO, |response| {
            let header = &response.header;
            let local = address(header.socket_id.source_address, header.socket_id.source_port);
            let mut listener = Listener::new(local, header.recv_queue, header.send_queue);
            listener.interface = header.socket_id.interface_id;
            for attribute in &response.nlas {
                match attribute {
                    Nla::SkV6Only(is_ipv6_only) => listener.is_ipv6_only = *is_ipv6_only,
                    Nla::Other(other) if other.kind() == INET_DIAG_MD5SIG => listener.has_md5_keys = true,
                    Nla::MemInfo(memory) => listener.receive_buffer = Some(memory.receive_queue_max),
                    _ => {}
                }
            }
            visit(listener);
        })
    }

    /// Calls `visit` with the port and inode of each listening socket.
    pub(crate) fn for_each_listener_inode(&mut self, mut visit: impl FnMut(u16, u64)) -> io::Result<()> {
        self.dump(StateFlags::LISTEN, ExtensionFlags::empty(), |response| {
            visit(response.header.socket_id.source_port, response.header.inode.into());
        })
    }

    /// Calls `visit` for each established connection.
    pub(crate) fn for_each_established(&mut self, mut visit: impl FnMut(Established)) -> io::Result<()> {
        self.dump(StateFlags::ESTABLISHED, ExtensionFlags::INFO, |response| visit(Established::of(response)))
    }

    /// Returns whether a connection is established.
    pub(crate) fn is_established(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        let (family, any) = match local {
            SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
            SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
        };
        let socket_id = SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            cookie: NO_COOKIE,
            ..any
        };
        let (states, extensions) = (StateFlags::ESTABLISHED, ExtensionFlags::empty());
        self.request(InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id }, NLM_F_REQUEST)?;
        let mut is_found = false;
        match self.receive(&mut |response| is_found = response.header.state == TCP_ESTABLISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(is_found),
        }
    }

    fn dump(
        &mut self,
        states: StateFlags,
        extensions: ExtensionFlags,
        mut visit: impl FnMut(&InetResponse),
    ) -> io::Result<()> {
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let (extensions, states) = (extensions.clone(), states.clone());
            let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
            self.request(request, NLM_F_REQUEST | NLM_F_DUMP)?;
            self.receive(&mut visit)?;
        }
        Ok(())
    }

    fn request(&mut self, request: InetRequest, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        self.sequence = self.sequence.wrapping_add(1);
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&mut self, visit: &mut impl FnMut(&InetResponse)) -> io::Result<()> {
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = self.buffer.get(..size).unwrap_or_default();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let is_ours = message.header.sequence_number == self.sequence;
                let is_last = message.header.flags & NLM_F_MULTIPART == 0;
                match message.payload {
                    _ if !is_ours => {}
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        visit(&response);
                        if is_last {
                            return Ok(());
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                // Messages are padded to four bytes.
                let length = (message.header.length as usize).next_multiple_of(4);
                if length == 0 {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message of length 0"));
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

fn address(address: std::net::IpAddr, port: u16) -> SocketAddr {
    // Dual-stack sockets report IPv4 peers as IPv4-mapped addresses.
    SocketAddr::new(address.to_canonical(), port)
}

/// Returns the age of a handshake whose SYN-ACK was retransmitted `retransmits` times and is due for the
/// next one in `expires`: the previous waits were 1, 2, 4 … s (RFC 6298 doubling from TCP_TIMEOUT_INIT).
fn age(expires: Duration, retransmits: u8) -> Duration {
    let waits = (1u64 << (u32::from(retransmits) + 1).min(16)) - 1;
    Duration::from_secs(waits).saturating_sub(expires)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn ages_follow_the_retransmit_timer() {
        assert_eq!(age(Duration::from_millis(400), 0), Duration::from_millis(600));
        assert_eq!(age(Duration::from_secs(2), 1), Duration::from_secs(1));
        assert_eq!(age(Duration::from_secs(4), 2), Duration::from_secs(3));
        assert_eq!(age(Duration::from_secs(9), 0), Duration::ZERO);
    }

    #[test]
    fn a_listener_is_found_with_its_backlog() {
        let listeners = [TcpListener::bind("127.0.0.1:0"), TcpListener::bind("[::1]:0")];
        let mut found = Vec::new();
        let mut kernel = SockDiag::open().expect("sock_diag");
        kernel.for_each_listener(|listener| found.push(listener)).expect("a dump");
        for listener in listeners {
            let address = listener.expect("loopback").local_addr().expect("bound");
            let row = found.iter().find(|row| row.local == address).expect("the kernel lists it");
            assert!(row.backlog > 0 && row.accept_queue == 0, "{row:?}");
        }
    }
}
