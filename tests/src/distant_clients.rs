//! Many clients at a distance, each of which opens connections from an address of its own: a thread writes their
//! segments at the client's end of the cable and answers the server's, as late as the path takes.
//!
//! The server accepts each connection and aborts it ([`crate::server::Aborting`]): its reset, which acknowledges the
//! handshake, shows that the connection was served.

use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    addresses::SERVER_IPV4,
    distance::{Chance, Path},
    frame::{self, ACK, Frame, LINUX_SYN_OPTIONS, RST, SYN},
    network::Lab,
    wire::packet_socket,
};

const FIRST_PORT: u16 = 1024;
/// In bytes; the kernel counts about a kilobyte for each frame.
const RECEIVE_BUFFER: usize = 16 << 20;
const PORTS: u32 = 60_000;
/// When a SYN is retransmitted, after the first one (RFC 6298, as Linux does it).
const RETRANSMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// How long the last connections may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Offsets in a frame with an IPv4 header without options.
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const TCP: usize = 34;

/// Clients at a distance. They open connections to one port of the server, each client in turn.
#[derive(Clone, Copy, Debug)]
pub struct DistantClients {
    /// The address of the first client; the others follow it. They belong to no interface of the lab.
    pub first: Ipv4Addr,
    /// The number of clients.
    pub count: u32,
    /// The path to the server.
    pub path: Path,
    /// One handshake in this many is never completed; 0 for none.
    pub abandoned_one_in: u64,
    /// The server's port.
    pub port: u16,
}

/// What became of the connections.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The number of connections that were opened and not abandoned.
    pub tried: u32,
    /// How long those that were served took to connect, in ascending order.
    pub connect_times: Vec<Duration>,
}

impl Served {
    /// Returns the share of connections that were served, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.connect_times.len() as f64 / f64::from(self.tried.max(1))
    }

    /// Returns the connect time that the share `share` of the served connections did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.connect_times.len().saturating_sub(1);
        self.connect_times.get(((last as f64) * share) as usize).copied().unwrap_or_default()
    }
}

impl DistantClients {
    /// Opens `rate` connections per second for `duration`, and waits for the last ones.
    ///
    /// # Errors
    /// Returns an error if the cable is unplugged, or the clients have too few ports.
    pub fn run(&self, lab: &Lab, rate: u32, duration: Duration) -> Result<Served> {
        let total = (f64::from(rate) * duration.as_secs_f64()) as u32;
        ensure!(total <= self.count * PORTS, "{} clients cannot open {total} connections", self.count);
        let (first, last) = (u32::from(self.first), u32::from(self.first) + self.count - 1);
        let length = (first ^ last).leading_zeros();
        let network = ipnet::Ipv4Net::new(self.first, length as u8).context("not a network")?.trunc();
        lab.lead_clients(&network.to_string())?;
        let cable = packet_socket(&lab.client)?;
        // Frames of some 50 ms, while the thread waits for a processor.
        setsockopt(&cable, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("cannot enlarge the receive buffer")?;
        let cable = File::from(cable);
        Run::new(*self, cable, total).go(rate)
    }
}

#[derive(Clone, Copy, Default)]
struct Connection {
    /// When its first SYN was sent, in microseconds from the start.
    began: u32,
    /// When its first SYN-ACK arrived, likewise; 0 before.
    answered: u32,
    is_served: bool,
}

struct Run {
    clients: DistantClients,
    cable: File,
    start: Instant,
    connections: Vec<Connection>,
    syn: Template,
    ack: Template,
    /// SYNs to be retransmitted, for each retransmit, in the order of time.
    repeats: [VecDeque<(Instant, u32)>; RETRANSMITS.len()],
    /// ACKs under way: time of arrival, connection, the server's sequence number and timestamp.
    acks: VecDeque<(Instant, u32, u32, u32)>,
    chance: Chance,
    served: u32,
}

impl Run {
    fn new(clients: DistantClients, cable: File, total: u32) -> Self {
        let syn = Frame {
            tcp_options: LINUX_SYN_OPTIONS.to_vec(),
            ..Frame::syn(clients.first.into(), SERVER_IPV4.into(), clients.port)
        };
        let syn = Frame { time_to_live: 53, ..syn };
        // No operation twice, and a timestamp.
        let options = vec![1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        let ack = Frame { flags: ACK, tcp_options: options, ..syn.clone() };
        Self {
            clients,
            cable,
            start: Instant::now(),
            connections: vec![Connection::default(); total as usize],
            syn: Template::new(&syn),
            ack: Template::new(&ack),
            repeats: [VecDeque::new(), VecDeque::new()],
            acks: VecDeque::new(),
            chance: Chance::default(),
            served: 0,
        }
    }

    fn go(mut self, rate: u32) -> Result<Served> {
        let (mut next, mut last) = (0u32, Instant::now());
        let total = self.connections.len() as u32;
        let wanted = total - self.abandoned(total);
        let mut buffer = vec![0; 65_536];
        while next < total || (self.served < wanted && last.elapsed() < PATIENCE) {
            let due = ((self.start.elapsed().as_secs_f64() * f64::from(rate)) as u32 + 1).min(total);
            while next < due {
                self.begin(next)?;
                next += 1;
                last = Instant::now();
                if next.is_multiple_of(16) {
                    self.receive(&mut buffer)?;
                }
            }
            self.repeat()?;
            self.acknowledge()?;
            self.receive(&mut buffer)?;
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&self.cable), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(1u8)).context("cannot wait for frames")?;
        }
        Ok(self.result())
    }

    fn abandoned(&self, total: u32) -> u32 {
        (0..total).filter(|connection| self.is_abandoned(*connection)).count() as u32
    }

    fn is_abandoned(&self, connection: u32) -> bool {
        let one_in = self.clients.abandoned_one_in;
        one_in != 0 && u64::from(connection).is_multiple_of(one_in)
    }

    fn is_lost(&mut self) -> bool {
        self.chance.is_one_in(self.clients.path.loss_one_in)
    }

    fn now(&self) -> u32 {
        self.start.elapsed().as_micros() as u32
    }

    fn address(&self, connection: u32) -> (u32, u16) {
        let count = self.clients.count;
        (u32::from(self.clients.first) + connection % count, FIRST_PORT + (connection / count) as u16)
    }

    /// Returns the connection that a frame from the server belongs to.
    fn connection_of(&self, bytes: &[u8]) -> Option<u32> {
        let address = word(bytes, DESTINATION)?.checked_sub(u32::from(self.clients.first))?;
        let port = half(bytes, TCP + 2)?.checked_sub(FIRST_PORT)?;
        let is_ours = half(bytes, 12)? == 0x0800
            && word(bytes, SOURCE)? == u32::from(SERVER_IPV4)
            && half(bytes, TCP)? == self.clients.port
            && address < self.clients.count;
        let connection = u32::from(port) * self.clients.count + address;
        (is_ours && (connection as usize) < self.connections.len()).then_some(connection)
    }

    fn begin(&mut self, connection: u32) -> Result<()> {
        self.connections[connection as usize].began = self.now().max(1);
        for (queue, after) in self.repeats.iter_mut().zip(RETRANSMITS) {
            queue.push_back((Instant::now() + after, connection));
        }
        self.send_syn(connection)
    }

    fn send_syn(&mut self, connection: u32) -> Result<()> {
        if self.is_lost() {
            return Ok(());
        }
        let now = self.now() / 1000;
        let (address, port) = self.address(connection);
        self.syn.write(address, port, sequence(connection), 0, (now, 0), SYN_TIMESTAMP);
        send(&mut self.cable, &self.syn.bytes)
    }

    fn repeat(&mut self) -> Result<()> {
        for retransmit in 0..RETRANSMITS.len() {
            while let Some((due, connection)) = self.repeats[retransmit].front().copied()
                && due <= Instant::now()
            {
                self.repeats[retransmit].pop_front();
                if self.connections[connection as usize].answered == 0 {
                    self.send_syn(connection)?;
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        while let Some((due, connection, server, timestamp)) = self.acks.front().copied()
            && due <= Instant::now()
        {
            self.acks.pop_front();
            if self.is_lost() {
                continue;
            }
            let now = self.now() / 1000;
            let (address, port) = self.address(connection);
            let sequence = sequence(connection).wrapping_add(1);
            self.ack.write(address, port, sequence, server.wrapping_add(1), (now, timestamp), ACK_TIMESTAMP);
            send(&mut self.cable, &self.ack.bytes)?;
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        loop {
            match self.cable.read(buffer) {
                Ok(length) => {
                    if let Some(connection) = self.connection_of(&buffer[..length]) {
                        self.take(connection, &buffer[..length]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot read a frame"),
            }
        }
    }

    fn take(&mut self, connection: u32, bytes: &[u8]) {
        let (now, lost) = (self.now(), self.is_lost());
        let is_abandoned = self.is_abandoned(connection);
        let entry = &mut self.connections[connection as usize];
        let flags = bytes.get(TCP + 13).copied().unwrap_or_default() & (SYN | ACK | RST);
        if flags == RST | ACK && entry.answered != 0 && !entry.is_served {
            entry.is_served = true;
            self.served += 1;
        }
        if flags != SYN | ACK || lost || is_abandoned {
            return;
        }
        if entry.answered == 0 {
            entry.answered = now;
        }
        let server = word(bytes, TCP + 4).unwrap_or_default();
        let timestamp = word(bytes, TCP + SERVER_TIMESTAMP).unwrap_or_default();
        self.acks.push_back((Instant::now() + self.clients.path.round_trip, connection, server, timestamp));
    }

    fn result(self) -> Served {
        let wanted = (0..self.connections.len() as u32).filter(|connection| !self.is_abandoned(*connection));
        let wanted: Vec<Connection> = wanted.map(|connection| self.connections[connection as usize]).collect();
        let served = wanted.iter().filter(|connection| connection.is_served);
        let took = served.map(|connection| {
            Duration::from_micros(u64::from(connection.answered - connection.began)) + self.clients.path.round_trip
        });
        let mut connect_times: Vec<Duration> = took.collect();
        connect_times.sort_unstable();
        Served { tried: wanted.len() as u32, connect_times }
    }
}

/// Returns the initial sequence number of a connection.
const fn sequence(connection: u32) -> u32 {
    connection.wrapping_mul(0x9e37_79b9)
}

/// Offset of the timestamp in the options of [`LINUX_SYN_OPTIONS`], from the start of the TCP header.
const SYN_TIMESTAMP: usize = 20 + 8;
/// Offset of the timestamp in the options of an ACK, likewise.
const ACK_TIMESTAMP: usize = 20 + 4;
/// Offset of the server's timestamp in a SYN-ACK whose options are laid out as by Linux, likewise.
const SERVER_TIMESTAMP: usize = 20 + 8;

/// A frame whose addresses and numbers vary.
struct Template {
    bytes: Vec<u8>,
    /// The sum of the words of pseudo-header and segment that do not vary.
    segment_sum: u32,
    header_sum: u32,
}

impl Template {
    fn new(frame: &Frame) -> Self {
        let mut bytes = frame.build().bytes;
        bytes[SOURCE..SOURCE + 4].fill(0);
        bytes[24..26].fill(0);
        let header_sum = frame::sum(&bytes[14..TCP]);
        bytes[TCP..TCP + 2].fill(0);
        bytes[TCP + 4..TCP + 12].fill(0);
        bytes[TCP + 16..TCP + 18].fill(0);
        let timestamp = if frame.flags == SYN { SYN_TIMESTAMP } else { ACK_TIMESTAMP };
        bytes[TCP + timestamp..TCP + timestamp + 8].fill(0);
        let segment = &bytes[TCP..];
        let segment_sum = frame::sum(segment) + frame::sum(&bytes[DESTINATION..TCP]) + 6 + segment.len() as u32;
        Self { segment_sum, header_sum, bytes }
    }

    fn write(
        &mut self,
        source: u32,
        port: u16,
        sequence: u32,
        acknowledgement: u32,
        stamps: (u32, u32),
        stamps_at: usize,
    ) {
        let halves = |word: u32| (word >> 16) + (word & 0xffff);
        put(&mut self.bytes, SOURCE, &source.to_be_bytes());
        put(&mut self.bytes, 24, &(!frame::fold(self.header_sum + halves(source))).to_be_bytes());
        put(&mut self.bytes, TCP, &port.to_be_bytes());
        put(&mut self.bytes, TCP + 4, &sequence.to_be_bytes());
        put(&mut self.bytes, TCP + 8, &acknowledgement.to_be_bytes());
        put(&mut self.bytes, TCP + stamps_at, &stamps.0.to_be_bytes());
        put(&mut self.bytes, TCP + stamps_at + 4, &stamps.1.to_be_bytes());
        let varying = [source, sequence, acknowledgement, stamps.0, stamps.1].map(halves).iter().sum::<u32>();
        let checksum = !frame::fold(self.segment_sum + varying + u32::from(port));
        put(&mut self.bytes, TCP + 16, &checksum.to_be_bytes());
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn send(cable: &mut File, frame: &[u8]) -> Result<()> {
    match cable.write_all(frame) {
        Ok(()) => Ok(()),
        // A full queue loses the frame, as on any path.
        Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
        Err(error) => Err(error).context("cannot send a frame"),
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
