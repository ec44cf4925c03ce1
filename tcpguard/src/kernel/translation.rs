//! Whether segments for the host's own addresses may belong to connections that have no socket here: those of containers
//! behind NAT, of ports redirected by netfilter, and of IPVS.

use std::{fs, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader};
use netlink_sys::constants::NETLINK_NETFILTER;

use super::sock_diag::{PATIENCE_SECONDS, RECEIVE_BUFFER};
use crate::netlink;

/// The family of messages about nftables (NFNL_SUBSYS_NFTABLES, include/uapi/linux/netfilter/nfnetlink.h).
const NFTABLES: u16 = 10 << 8;
/// NFT_MSG_NEWCHAIN and NFT_MSG_GETCHAIN (include/uapi/linux/netfilter/nf_tables.h).
const NEW_CHAIN: u16 = NFTABLES | 3;
const GET_CHAIN: u16 = NFTABLES | 4;
/// NFTA_CHAIN_TYPE.
const CHAIN_TYPE: u16 = 7;
/// `struct nfgenmsg`: any family, version 0.
const NFGENMSG: [u8; 4] = [0; 4];
/// NLMSG_ERROR and NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The bits of an attribute's type that are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const ATTRIBUTE_FLAGS: u16 = 0xc000;

const HEADER: usize = 16;

/// The address families whose segments may belong to such connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Translation {
    /// Nothing is known: they may.
    pub const POSSIBLE: Self = Self { ipv4: true, ipv6: true };

    /// Reads it from the kernel's settings and tables. What cannot be read counts as possible.
    pub fn read() -> Self {
        if has_nat_chain().unwrap_or(true) || has_nat_table() || has_virtual_services() {
            return Self::POSSIBLE;
        }
        Self { ipv4: forwards("/proc/sys/net/ipv4/conf"), ipv6: forwards("/proc/sys/net/ipv6/conf") }
    }
}

/// Returns whether some interface forwards what it receives; `false` without the folder, that is, without this family.
fn forwards(folder: &str) -> bool {
    let Ok(interfaces) = fs::read_dir(folder) else { return false };
    let mut settings = interfaces.flatten().map(|interface| interface.path().join("forwarding"));
    settings.any(|setting| fs::read_to_string(setting).map_or(true, |value| value.trim() != "0"))
}

/// Returns whether the iptables of old, which nftables does not list, have a table for NAT. Only root can read the names.
fn has_nat_table() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].iter().any(|file| match fs::read_to_string(file) {
        Ok(names) => names.lines().any(|name| name == "nat"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    })
}

/// Returns whether IPVS has virtual services. The first three lines are the table's head.
fn has_virtual_services() -> bool {
    match fs::read_to_string("/proc/net/ip_vs") {
        Ok(table) => table.lines().count() > 3,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns whether nftables, or iptables on top of it, has a chain that translates addresses.
fn has_nat_chain() -> io::Result<bool> {
    let socket = netlink::open(NETLINK_NETFILTER, PATIENCE_SECONDS)?;
    let mut header = NetlinkHeader::default();
    (header.length, header.message_type) = ((HEADER + NFGENMSG.len()) as u32, GET_CHAIN);
    (header.flags, header.sequence_number) = (NLM_F_REQUEST | NLM_F_DUMP, 1);
    let mut request = [0; HEADER + NFGENMSG.len()];
    netlink_packet_core::Emitable::emit(&header, &mut request[..HEADER]);
    socket.send(&request, 0)?;

    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut is_found = false;
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while rest.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(rest).map_err(|error| io::Error::other(error.to_string()))?;
            match message.message_type() {
                NEW_CHAIN => is_found |= is_nat(message.payload()),
                DONE => return Ok(is_found),
                ERROR => return no_tables(message.payload()),
                _ => {}
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Returns `false` if the error means that the kernel has no nftables, and the error otherwise.
fn no_tables(payload: &[u8]) -> io::Result<bool> {
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    match -code {
        libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => Ok(false),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Returns whether a message describes a chain of the type `nat`.
fn is_nat(payload: &[u8]) -> bool {
    let mut rest = payload.get(NFGENMSG.len()..).unwrap_or_default();
    while let [l0, l1, k0, k1, after @ ..] = rest {
        let (length, kind) = (u16::from_ne_bytes([*l0, *l1]) as usize, u16::from_ne_bytes([*k0, *k1]));
        let Some(value) = length.checked_sub(4).and_then(|length| after.get(..length)) else { return false };
        if kind & !ATTRIBUTE_FLAGS == CHAIN_TYPE && value == b"nat\0" {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(kind: &[u8]) -> Vec<u8> {
        [NFGENMSG.to_vec(), attribute(1, b"a table\0"), attribute(3, b"nat\0"), attribute(CHAIN_TYPE, kind)].concat()
    }

    #[test]
    fn chains_are_told_apart_by_their_type() {
        assert!(is_nat(&chain(b"nat\0")));
        assert!(!is_nat(&chain(b"filter\0")));
        assert!(!is_nat(&[NFGENMSG.to_vec(), attribute(3, b"nat\0")].concat()), "the name of a chain");
        for length in 0..chain(b"nat\0").len() {
            assert!(!is_nat(&chain(b"nat\0")[..length]), "{length} bytes");
        }
    }
}
