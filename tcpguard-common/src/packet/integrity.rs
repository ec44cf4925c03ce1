//! Whether the checksum of a segment is right. What the kernel would discard is no evidence of anything.
//!
//! Only segments without data are checked, as resets and the ACK of a handshake are: the sum of a whole packet would cost
//! more than what depends on it.

use super::{Segment, ip, tcp_at};
use crate::{
    checksum::{checksum, sum},
    wire::{Be16, PacketBytes},
};

/// Words of the longest TCP header: fifteen 32-bit words.
const MAX_WORDS: usize = 30;

/// The checksum is wrong, or the segment carries data and was not checked.
pub const WRONG: u32 = 0;
/// The checksum field holds the sum of the pseudo-header, as in segments of this host's containers and virtual machines,
/// whose checksum is left to the hardware. A remote host may send such a segment as well, which the kernel discards.
pub const INCOMPLETE: u32 = 1;
/// The checksum is right.
pub const RIGHT: u32 = 2;

/// Returns one of the constants above for the segment at a place returned by [`Segment::place`].
#[inline(always)]
pub fn integrity(bytes: &(impl PacketBytes + ?Sized), place: u64) -> u32 {
    check(bytes, place).unwrap_or(WRONG)
}

#[inline(always)]
fn check(bytes: &(impl PacketBytes + ?Sized), place: u64) -> Option<u32> {
    /// The word of a TCP header that holds the checksum.
    const CHECKSUM: usize = 8;

    let segment = Segment::at(bytes, place)?;
    let (tcp_offset, length) = tcp_at(place);
    if ip::payload_length(bytes, segment.ip_offset, tcp_offset)? as usize != length {
        return Some(WRONG);
    }
    let pseudo_header = [Be16::new(ip::TCP.into()), Be16::new(length as u16)];
    let pseudo_sum =
        sum(&segment.source.fields_on_wire()) + sum(&segment.destination.fields_on_wire()) + sum(&pseudo_header);
    let (mut total, mut field) = (pseudo_sum, 0);
    for index in 0..MAX_WORDS {
        if 2 * index < length {
            let word = bytes.read::<Be16>(tcp_offset + 2 * index)?.raw();
            total += word as u32;
            if index == CHECKSUM {
                field = word;
            }
        }
    }
    if field == !checksum(pseudo_sum).raw() {
        return Some(INCOMPLETE);
    }
    // A sum that includes the right checksum has no complement.
    Some(if checksum(total).raw() == 0 { RIGHT } else { WRONG })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::packet::parse;

    /// A reset from 198.18.0.2 to 198.18.0.1 with a right checksum, calculated by hand.
    fn reset(source: &str, destination: &str, data: &[u8]) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().expect("an address"), destination.parse().expect("an address"));
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x14, 1, 2, 0, 0, 0, 0];
        tcp.extend(data);
        let mut summed = [octets(source), octets(destination), vec![0, 6, 0, tcp.len() as u8], tcp.clone()].concat();
        if summed.len() % 2 == 1 {
            summed.push(0);
        }
        let sum: u32 = summed.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) as u16 + (folded >> 16) as u16);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if source.is_ipv4() {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + tcp.len() as u8, 0, 1, 0x40, 0, 64, 6, 0, 0]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64]);
        }
        [frame, octets(source), octets(destination), tcp].concat()
    }

    fn is_right(frame: &[u8]) -> bool {
        integrity(frame, parse(frame).expect("a segment").place()) == RIGHT
    }

    #[test]
    fn a_right_checksum_is_told_from_a_wrong_one() {
        for (source, destination) in [("198.18.0.2", "198.18.0.1"), ("2001:db8::2", "2001:db8::1")] {
            let frame = reset(source, destination, &[]);
            assert!(is_right(&frame));
            for place in [frame.len() - 1, frame.len() - 4, frame.len() - 20, frame.len() - 25] {
                let mut wrong = frame.clone();
                wrong[place] ^= 1;
                assert!(!is_right(&wrong), "{source}: byte {place}");
            }
            assert!(!is_right(&reset(source, destination, b"data")), "it is not checked");
            let mut incomplete = frame.clone();
            let tcp = frame.len() - 20;
            incomplete[tcp..].fill(0);
            incomplete[tcp + 12] = 0x50;
            incomplete[tcp + 13] = 0x14;
            let addresses = &frame[if source.contains(':') { 22 } else { 26 }..tcp];
            let sum: u32 =
                addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>() + 26;
            let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
            incomplete[tcp + 16..tcp + 18].copy_from_slice(&folded.to_be_bytes());
            let place = parse(&incomplete[..]).expect("a segment").place();
            assert_eq!(integrity(&incomplete[..], place), INCOMPLETE);
            // An Ethernet frame may be padded.
            assert!(is_right(&[&frame[..], &[0; 6]].concat()));
        }
    }
}
