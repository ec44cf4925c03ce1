//! What etherparse, which was written by others, finds in a frame.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use tcpguard_common::packet::{Segment, Unread};

/// A TCP header as etherparse finds it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    sequence: u32,
    flags: u8,
}

/// Checks that both parsers find the same TCP header, with these exceptions, each of which is a choice:
/// - etherparse takes what it can get of a packet that is shorter than its IP header says; `Truncated` is not compared.
/// - It reads more than two VLAN tags, and more extension headers.
/// - It does not look into fragments, the first one included.
/// - It reads hop-by-hop options only behind the IPv6 header, as RFC 8200 requires. The kernel drops packets with others.
/// - It refuses authentication headers that are shorter than RFC 4302 requires. The kernel drops all that it has no key for.
/// - It knows nothing of addresses: IPv4-mapped ones in an IPv6 header, and header fields that contradict each other, are
///   `BadIpHeader` here.
pub fn compare(frame: &[u8], parsed: &Result<Segment, Unread>) -> Result<()> {
    let found = find(frame);
    match (parsed, found) {
        (Ok(segment), Some(found)) => {
            let ours = Found {
                source: segment.source.into(),
                destination: segment.destination.into(),
                ports: (segment.source_port, segment.destination_port),
                sequence: segment.sequence,
                flags: segment.flags.0,
            };
            ensure!(ours == found, "{ours:?}, but etherparse finds {found:?}");
        }
        (Ok(segment), None) => ensure!(is_left_unread(frame), "etherparse finds no TCP, but {segment:?}"),
        (Err(Unread::NotTcp), Some(found)) => ensure!(false, "not TCP, but etherparse finds {found:?}"),
        (Err(Unread::NotIp), Some(found)) => ensure!(false, "not IP, but etherparse finds {found:?}"),
        (Err(Unread::TooManyTags), _) => ensure!(tags(frame) > 2, "{} tags", tags(frame)),
        (Err(Unread::LaterFragment), Some(found)) => ensure!(false, "a fragment, but etherparse finds {found:?}"),
        (Err(_), _) => {}
    }
    Ok(())
}

fn find(frame: &[u8]) -> Option<Found> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    let flags = tcp.slice()[13];
    Some(Found {
        source,
        destination,
        ports: (tcp.source_port(), tcp.destination_port()),
        sequence: tcp.sequence_number(),
        flags,
    })
}

/// Returns whether etherparse does not read on: behind the header of a fragment, or at options or an
/// authentication header that it refuses.
fn is_left_unread(frame: &[u8]) -> bool {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return false };
    match packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().more_fragments(),
        Some(LaxNetSlice::Ipv6(ip)) => {
            let (payload, stops) = (ip.payload(), [IpNumber::IPV6_HEADER_HOP_BY_HOP, IpNumber::AUTHENTICATION_HEADER]);
            payload.fragmented || stops.contains(&payload.ip_number)
        }
        _ => false,
    }
}

/// Returns the number of VLAN tags.
fn tags(frame: &[u8]) -> usize {
    let types = frame.get(12..).unwrap_or_default().chunks(4).filter(|tag| tag.len() > 1);
    types.take_while(|tag| matches!(tag[..2], [0x81, 0] | [0x88, 0xa8] | [0x91, 0])).count()
}
