//! Segments that the kernel sends, as its tracepoint reports them.

use aya_ebpf::programs::BtfTracePointContext;
use tcpguard_common::{
    address::Address,
    packet::{Flags, SegmentKind, TCP_PROTOCOL},
};

use super::KernelStruct;
use crate::{accounting, settings};

/// A packet that is longer than this, in bytes, is neither a SYN-ACK nor a reset: a link-layer header with two tags, an IPv6
/// header and the longest TCP header.
const LONGEST: u32 = 18 + 8 + 40 + 60;

/// The kind of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A SYN-ACK.
    SynAck,
    /// A reset that refuses a handshake.
    Reset,
}

/// A segment that a server sends to a client through a guarded interface.
pub struct SentSegment {
    pub kind: Sent,
    pub server: Address,
    pub server_port: u16,
    pub client: Address,
    pub client_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// It leaves through the interface that it came through.
    pub is_sent_back: bool,
    /// It came from the clients' side.
    pub is_from_clients: bool,
}

impl SentSegment {
    /// Reads the arguments of `net_dev_start_xmit`: packet, device. Returns `None` for any other segment.
    #[inline(always)]
    pub fn read(context: &BtfTracePointContext) -> Option<Self> {
        let layout = settings::packet_layout();
        let packet = KernelStruct(context.arg::<*const u8>(0) as usize);
        if layout.known == 0 || packet.read::<u32>(layout.length)? > LONGEST {
            return None;
        }
        let offset: u16 = packet.read(layout.network_header)?;
        let header = KernelStruct(packet.read::<usize>(layout.head)? + usize::from(offset));
        let first: u8 = header.read(0)?;
        let (addresses, tcp) = if first >> 4 == 4 {
            let fragment = u16::from_be(header.read(6)?) & 0x3fff;
            let protocol: u8 = header.read(9)?;
            if protocol != TCP_PROTOCOL || fragment != 0 {
                return None;
            }
            let [server, client]: [u32; 2] = header.read(12)?;
            ([Address::from_ipv4_be(server), Address::from_ipv4_be(client)], u32::from(first & 0xf) * 4)
        } else {
            let next: u8 = header.read(6)?;
            if next != TCP_PROTOCOL {
                return None;
            }
            let [server, client]: [[u64; 2]; 2] = header.read(8)?;
            ([Address::from_words(server), Address::from_words(client)], 40)
        };
        let header = KernelStruct(header.0 + tcp as usize);
        let flags = Flags(header.read(13)?);
        let kind = match flags.kind() {
            SegmentKind::SynAck => Sent::SynAck,
            SegmentKind::Rst if flags.0 & Flags::ACK != 0 => Sent::Reset,
            _ => return None,
        };
        let device = KernelStruct(context.arg::<*const u8>(1) as usize);
        if !is_guarded(device)? {
            return None;
        }
        let received_on: u32 = packet.read(layout.received_on)?;
        let [server_port, client_port]: [u16; 2] = header.read(0)?;
        let [sequence, acknowledgement]: [u32; 2] = header.read(4)?;
        let [server, client] = addresses;
        Some(Self {
            kind,
            server,
            server_port: u16::from_be(server_port),
            client,
            client_port: u16::from_be(client_port),
            sequence: u32::from_be(sequence),
            acknowledgement: u32::from_be(acknowledgement),
            is_sent_back: received_on == device.read::<u32>(layout.device_index)?,
            is_from_clients: accounting::is_from_clients(received_on),
        })
    }
}

/// Returns whether a device is a guarded interface of our namespace, and not one that is stacked on it: the packet passes that
/// one first.
#[inline(always)]
fn is_guarded(device: KernelStruct) -> Option<bool> {
    let layout = settings::packet_layout();
    let namespace = KernelStruct(device.read(layout.device_namespace)?);
    let inode: u32 = namespace.read(settings::socket_layout().namespace_inode)?;
    Some(inode == settings::namespace() && accounting::is_guarded(device.read(layout.device_index)?))
}
