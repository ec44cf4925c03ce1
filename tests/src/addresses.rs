//! The names and addresses of the lab.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The server's end of the cable.
pub const SERVER_INTERFACE: &str = "lab-server";
/// The client's end of the cable.
pub const CLIENT_INTERFACE: &str = "lab-client";
/// The server's end of the second cable, for traffic that must not queue behind a flood.
pub const SECOND_SERVER_INTERFACE: &str = "lab-server2";
/// The client's end of the second cable.
pub const SECOND_CLIENT_INTERFACE: &str = "lab-client2";

/// The server's IPv4 address. All addresses of the lab are from the ranges for benchmarks (RFC 2544) and
/// documentation (RFC 3849).
pub const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The client's first IPv4 address.
pub const CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The server's IPv6 address.
pub const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The client's first IPv6 address.
pub const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// The server's MAC address.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A port of the server with a listener that accepts nothing (RFC 863), for floods: SYNs to a port without a listener are
/// not judged.
pub const DISCARD_PORT: u16 = 9;

/// The client's MAC address.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Returns the usual notation of a MAC address.
pub fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
