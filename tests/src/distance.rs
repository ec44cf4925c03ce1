//! A client at a distance: a network namespace whose packets take half a round trip to reach the cable, and as long back.
//! The kernel of the lab machine has no netem, so a thread delays them.
//!
//! The namespace's only interface is a TUN device. The thread reads its packets, keeps each for half a round trip, and
//! sends it as a frame at the client's end of the cable; frames for the namespace's addresses go the other way.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    addresses::{CLIENT_MAC, SERVER_INTERFACE, SERVER_MAC},
    namespace::Namespace,
    wire::packet_socket,
};

pub(crate) const DEVICE: &str = "far";
const ETHERNET_HEADER: usize = 14;
/// The largest packet that either side hands over: merged segments are larger than the MTU.
const MAX_PACKET: usize = 65_536 + ETHERNET_HEADER;
/// The TTL of packets that arrive from a distance: each hop lowers it.
const HOPS: u8 = 11;
/// TCP's number in the IP header.
const TCP: u8 = 6;

/// The path between a client and the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// Round-trip time.
    pub round_trip: Duration,
    /// One packet in this many is lost, in each direction; 0 for none.
    pub loss_one_in: u64,
    /// One packet in this many arrives a quarter of a round trip late, after packets sent later; 0 for none.
    pub late_one_in: u64,
}

impl Path {
    /// A path with this round-trip time in milliseconds, without loss.
    pub const fn milliseconds(round_trip: u64) -> Self {
        Self { round_trip: Duration::from_millis(round_trip), loss_one_in: 0, late_one_in: 0 }
    }
}

/// Chooses packets at random, the same ones in every run.
pub(crate) struct Chance(u64);

impl Default for Chance {
    fn default() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }
}

impl Chance {
    /// Returns true for one packet in `count`; for none if that is 0.
    pub(crate) fn is_one_in(&mut self, count: u64) -> bool {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        count != 0 && self.0.is_multiple_of(count)
    }
}

/// The addresses of a client, shared with the thread that delays its packets.
type Addresses = Arc<RwLock<HashSet<IpAddr>>>;

/// A client's namespace at a distance, until this value is dropped.
#[derive(Debug)]
pub struct FarClient {
    /// The namespace of the client.
    pub namespace: Namespace,
    addresses: Addresses,
    is_over: Arc<AtomicBool>,
    relay: Option<JoinHandle<Result<()>>>,
    resets: Arc<AtomicU64>,
}

impl FarClient {
    /// Creates a namespace whose packets enter the cable at `client`'s end. A host that sends no resets is behind a
    /// firewall that drops them. Offloads of `server` that the path cannot carry are disabled.
    ///
    /// # Errors
    /// Returns an error if the kernel lacks TUN or a step fails.
    pub(crate) fn create(server: &Namespace, client: &Namespace, path: Path, sends_resets: bool) -> Result<Self> {
        let namespace = Namespace::new()?;
        let device = namespace.within(tun)?;
        namespace.ip(&format!("link set {DEVICE} up"))?;
        namespace.ip(&format!("route add default dev {DEVICE}"))?;
        namespace.ip(&format!("-6 route add default dev {DEVICE}"))?;
        // Frames that the server leaves to the hardware to complete never become complete on this path.
        server.set_offload(SERVER_INTERFACE, "tx", false)?;
        let cable = packet_socket(client)?;
        let shared = Addresses::default();
        let (is_over, resets) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let relay = Relay {
            path,
            addresses: Arc::clone(&shared),
            device,
            cable: File::from(cable),
            chance: Chance::default(),
            sends_resets,
            resets: Arc::clone(&resets),
        };
        let ending = Arc::clone(&is_over);
        let relay = std::thread::spawn(move || relay.run(&ending));
        Ok(Self { namespace, addresses: shared, is_over, relay: Some(relay), resets })
    }

    /// Adds an address, which may not belong to the namespace at the cable's end.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub(crate) fn add_address(&self, address: IpAddr) -> Result<()> {
        let network = IpNet::from(address);
        let flags = if address.is_ipv4() { "" } else { "nodad" };
        self.namespace.ip(&format!("addr add {network} dev {DEVICE} {flags}"))?;
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).insert(address);
        Ok(())
    }

    /// Returns the number of resets that the client's host has sent.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Drop for FarClient {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.relay.take().map(JoinHandle::join) {
            eprintln!("the path to a far client failed: {error:#}");
        }
    }
}

/// Opens a TUN device without packet information, in the current namespace.
fn tun() -> Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun").context("cannot open /dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request has the type that this ioctl expects.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(result == 0, "cannot create a TUN device: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is open and duplicated; both are closed once.
    let duplicate = unsafe { OwnedFd::from_raw_fd(libc::dup(device.as_raw_fd())) };
    drop(device);
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&duplicate, nix::fcntl::FcntlArg::F_SETFL(flags)).context("cannot set O_NONBLOCK")?;
    Ok(File::from(duplicate))
}

struct Relay {
    path: Path,
    addresses: Addresses,
    device: File,
    cable: File,
    chance: Chance,
    sends_resets: bool,
    resets: Arc<AtomicU64>,
}

/// Packets under way in one direction, in the order in which they arrive.
type UnderWay = VecDeque<(Instant, Vec<u8>)>;

impl Relay {
    fn run(mut self, is_over: &AtomicBool) -> Result<()> {
        let (mut there, mut back) = (UnderWay::new(), UnderWay::new());
        let mut buffer = vec![0; MAX_PACKET];
        while !is_over.load(Ordering::Relaxed) {
            let next = [&there, &back].into_iter().filter_map(|packets| Some(packets.front()?.0)).min();
            let wait = next.map_or(Duration::from_millis(20), |due| due.saturating_duration_since(Instant::now()));
            let wait = PollTimeout::try_from(wait.min(Duration::from_millis(20)).as_millis() as i32);
            let mut ready = [
                PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.cable.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, wait.unwrap_or(PollTimeout::ZERO)).context("cannot wait for packets")?;
            while let Some(length) = read(&mut self.device, &mut buffer)? {
                if let Some(frame) = self.to_cable(&buffer[..length]) {
                    self.depart(&mut there, frame);
                }
            }
            while let Some(length) = read(&mut self.cable, &mut buffer)? {
                if let Some(packet) = self.to_client(&buffer[..length]) {
                    self.depart(&mut back, packet);
                }
            }
            arrive(&mut there, &mut self.cable);
            arrive(&mut back, &mut self.device);
        }
        Ok(())
    }

    /// Sends a packet on its way, unless it is lost.
    fn depart(&mut self, packets: &mut UnderWay, packet: Vec<u8>) {
        if self.chance.is_one_in(self.path.loss_one_in) {
            return;
        }
        let mut due = Instant::now() + self.path.round_trip / 2;
        if self.chance.is_one_in(self.path.late_one_in) {
            due += self.path.round_trip / 4;
        }
        let place = packets.iter().rposition(|(other, _)| *other <= due).map_or(0, |place| place + 1);
        packets.insert(place, (due, packet));
    }

    /// Returns the packet in a frame for one of the client's addresses.
    fn to_client(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let destination = match frame.get(12..14)? {
            [0x08, 0x00] => IpAddr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?),
            [0x86, 0xdd] => IpAddr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?),
            _ => return None,
        };
        let is_ours = frame[..6] == CLIENT_MAC
            && self.addresses.read().unwrap_or_else(PoisonError::into_inner).contains(&destination);
        is_ours.then(|| frame[ETHERNET_HEADER..].to_vec())
    }

    /// Returns the frame of a packet that has passed [`HOPS`] routers; `None` for a reset that is not sent.
    fn to_cable(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut packet = packet.to_vec();
        let (ether_type, protocol, tcp) = match packet.first()? >> 4 {
            4 => ([0x08, 0x00], *packet.get(9)?, usize::from(packet[0] & 0x0f) * 4),
            _ => ([0x86, 0xdd], *packet.get(6)?, 40),
        };
        if ether_type == [0x08, 0x00] {
            packet[8] = packet[8].saturating_sub(HOPS);
            packet[10..12].fill(0);
            let checksum = !crate::frame::fold(crate::frame::sum(packet.get(..tcp)?));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            packet[7] = packet[7].saturating_sub(HOPS);
        }
        let flags = packet.get(tcp + 13).copied().unwrap_or_default();
        if protocol == TCP && flags & crate::frame::RST != 0 {
            if !self.sends_resets {
                return None;
            }
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
        Some([&SERVER_MAC[..], &CLIENT_MAC, &ether_type, &packet].concat())
    }
}

fn arrive(packets: &mut UnderWay, to: &mut File) {
    let now = Instant::now();
    while packets.front().is_some_and(|(due, _)| *due <= now) {
        if let Some((_, packet)) = packets.pop_front() {
            // A packet that a full queue refuses is lost, as on any path.
            to.write_all(&packet).ok();
        }
    }
}

/// Reads one packet, or `None` if there is none now.
fn read(file: &mut File, buffer: &mut [u8]) -> Result<Option<usize>> {
    match file.read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        // The cable was unplugged, or is down.
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
        Err(error) => Err(error).context("cannot read a packet"),
    }
}
