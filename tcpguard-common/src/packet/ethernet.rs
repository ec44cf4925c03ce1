//! Ethernet II, IEEE 802.1Q and 802.1ad headers.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::Unread;
use crate::wire::{Be16, PacketBytes};

/// The maximum number of VLAN tags that are skipped: one customer tag within one service tag (QinQ).
pub const MAX_VLAN_TAGS: usize = 2;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const LEGACY_SERVICE_VLAN: u16 = 0x9100;

#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct EthernetHeader {
    destination: [Be16; 3],
    source: [Be16; 3],
    kind: Be16,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct VlanTag {
    control: Be16,
    kind: Be16,
}

/// The type of IP packet that an Ethernet frame carries, and its offset in bytes.
pub(super) enum Payload {
    Ipv4(usize),
    Ipv6(usize),
}

#[inline(always)]
pub(super) fn payload(bytes: &(impl PacketBytes + ?Sized)) -> Result<Payload, Unread> {
    let header: EthernetHeader = bytes.read(0).ok_or(Unread::Truncated)?;
    let mut kind = header.kind.get();
    let mut offset = size_of::<EthernetHeader>();
    for _ in 0..MAX_VLAN_TAGS {
        if !matches!(kind, VLAN | SERVICE_VLAN | LEGACY_SERVICE_VLAN) {
            break;
        }
        let tag: VlanTag = bytes.read(offset).ok_or(Unread::Truncated)?;
        kind = tag.kind.get();
        offset += size_of::<VlanTag>();
    }
    match kind {
        IPV4 => Ok(Payload::Ipv4(offset)),
        IPV6 => Ok(Payload::Ipv6(offset)),
        VLAN | SERVICE_VLAN | LEGACY_SERVICE_VLAN => Err(Unread::TooManyTags),
        _ => Err(Unread::NotIp),
    }
}
