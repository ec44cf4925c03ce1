//! Frames to begin with: the packet tables, and the shapes of real floods.

use lab::{
    fixtures::{drop_table, extension, ipv4, ipv6, table},
    frame::{ACK, Frame, RST, SYN},
};

/// ECE and CWR, which some floods set.
const ECE_CWR: u8 = 0xc0;

/// Returns the frames.
pub fn frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = table().into_iter().map(|(_, frame, _)| frame).collect();
    for (family, plain) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        frames.extend(drop_table(family, &plain).into_iter().map(|(_, frame, _)| frame));
        frames.extend(shapes(&plain).into_iter().map(|frame| frame.build().bytes));
        frames.extend(plain.fragments(16));
    }
    let chain = Frame { extensions: vec![extension(0, 0), extension(43, 1), extension(60, 2)], ..ipv6() };
    frames.push(chain.build().bytes);
    let tagged = Frame { tags: vec![0x88a8, 0x8100], ip_options: vec![1; 8], ..ipv4() };
    frames.push(tagged.build().bytes);
    frames
}

/// Returns the shapes counted in captures of floods: SYNs without options, of 40 bytes, with a TTL of 244; with ECE and CWR;
/// reflected SYN-ACKs and resets; a scanner's SYNs with the MSS alone.
fn shapes(plain: &Frame) -> [Frame; 5] {
    let mss = vec![2, 4, 5, 0xb4];
    [
        Frame { time_to_live: 244, ..plain.clone() },
        Frame { time_to_live: 242, ..plain.clone() }.flags(SYN | ECE_CWR),
        Frame { tcp_options: mss.clone(), ..plain.clone() }.flags(SYN | ACK),
        plain.clone().flags(RST),
        Frame { tcp_options: mss, time_to_live: 37, ..plain.clone() },
    ]
}
