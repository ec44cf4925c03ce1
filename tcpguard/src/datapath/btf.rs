//! Offsets of structure members, from the kernel's type information (BTF, Documentation/bpf/btf.rst).
//! aya applies no relocations to programs written in Rust, and its BTF parser is private; this module
//! implements the small part that is needed.

use std::path::Path;

use tcpguard_common::abi::{packet_layout::PacketLayout, socket_layout::SocketLayout};
use thiserror::Error;

/// The file with the running kernel's BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const TYPE_SIZE: usize = 12;
const MEMBER_SIZE: usize = 12;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_INT: u32 = 1;

/// Why a member's offset could not be determined.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel has no BTF.
    #[error("the kernel has no type information: {KERNEL_BTF}: {0} (CONFIG_DEBUG_INFO_BTF)")]
    Missing(std::io::Error),
    /// The BTF is malformed.
    #[error("the kernel's type information cannot be read: it is malformed")]
    Malformed,
    /// The structure has no such member.
    #[error("this kernel's struct {structure} has no member {member}")]
    NoMember {
        /// The name of the structure.
        structure: &'static str,
        /// The name of the member.
        member: &'static str,
    },
    /// The member is not at offset 0, as this module assumes.
    #[error("this kernel's struct {structure} does not begin with {member}")]
    NotFirst {
        /// The name of the structure.
        structure: &'static str,
        /// The name of the member.
        member: &'static str,
    },
}

/// The offsets of the members that the tracepoint programs read.
pub struct Layouts {
    /// Of sockets, or why they are not known.
    pub socket: Result<SocketLayout, BtfError>,
    /// Of packets that the kernel sends, or why they are not known.
    pub packet: Result<PacketLayout, BtfError>,
}

/// Reads the kernel's BTF, several megabytes, once for both layouts.
///
/// # Errors
/// Returns an error if the kernel has no BTF, or it is malformed.
pub fn layouts() -> Result<Layouts, BtfError> {
    let bytes = std::fs::read(Path::new(KERNEL_BTF)).map_err(BtfError::Missing)?;
    let btf = Btf::parse(&bytes)?;
    Ok(Layouts { socket: socket_layout(&btf), packet: packet_layout(&btf) })
}

fn socket_layout(btf: &Btf<'_>) -> Result<SocketLayout, BtfError> {
    for (structure, member) in [("sock", "__sk_common"), ("request_sock", "__req_common"), ("inet_sock", "sk")] {
        if btf.offset(structure, member)? != 0 {
            return Err(BtfError::NotFirst { structure, member });
        }
    }
    Ok(SocketLayout {
        family: btf.offset("sock_common", "skc_family")?,
        remote_ipv4: btf.offset("sock_common", "skc_daddr")?,
        remote_ipv6: btf.offset("sock_common", "skc_v6_daddr")?,
        local_ipv4: btf.offset("sock_common", "skc_rcv_saddr")?,
        local_ipv6: btf.offset("sock_common", "skc_v6_rcv_saddr")?,
        remote_port: btf.offset("sock_common", "skc_dport")?,
        local_port: btf.offset("sock_common", "skc_num")?,
        namespace: btf.offset("sock_common", "skc_net")?,
        namespace_inode: btf.offset("net", "ns")? + btf.offset("ns_common", "inum")?,
        protocol: btf.offset("sock", "sk_protocol")?,
        // A member of inet_sock before Linux 5.16.
        receive_interface: btf
            .offset("sock", "sk_rx_dst_ifindex")
            .or_else(|_| btf.offset("inet_sock", "rx_dst_ifindex"))?,
        known: 1,
    })
}

fn packet_layout(btf: &Btf<'_>) -> Result<PacketLayout, BtfError> {
    Ok(PacketLayout {
        length: btf.offset("sk_buff", "len")?,
        head: btf.offset("sk_buff", "head")?,
        network_header: btf.offset("sk_buff", "network_header")?,
        received_on: btf.offset("sk_buff", "skb_iif")?,
        device_index: btf.offset("net_device", "ifindex")?,
        // `possible_net_t` has nothing else.
        device_namespace: btf.offset("net_device", "nd_net")?,
        known: 1,
    })
}

struct Btf<'a> {
    strings: &'a [u8],
    /// The types; the type with id n is at index n - 1.
    types: Vec<Type<'a>>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    info: u32,
    /// The size in bytes, or the id of the type referred to.
    reference: u32,
    members: &'a [u8],
}

impl Type<'_> {
    const fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    const fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    const fn has_bit_fields(&self) -> bool {
        self.info >> 31 == 1
    }

    const fn is_composite(&self) -> bool {
        matches!(self.kind(), KIND_STRUCT | KIND_UNION)
    }

    const fn is_alias(&self) -> bool {
        matches!(self.kind(), KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG)
    }
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(BtfError::Malformed);
        }
        let header = word(bytes, 4)? as usize;
        let section = |offset: usize, length: usize| -> Result<&'a [u8], BtfError> {
            let start = header + word(bytes, offset)? as usize;
            bytes.get(start..start + word(bytes, length)? as usize).ok_or(BtfError::Malformed)
        };
        Ok(Self { types: parse_types(section(8, 12)?)?, strings: section(16, 20)? })
    }

    fn offset(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        self.types
            .iter()
            .filter(|kind| kind.kind() == KIND_STRUCT && self.is_named(kind.name, structure))
            .find_map(|kind| self.offset_within(kind, member))
            .ok_or(BtfError::NoMember { structure, member })
    }

    /// Returns the member's offset in bytes, searching anonymous members too.
    fn offset_within(&self, composite: &Type<'_>, wanted: &str) -> Option<u32> {
        composite.members.chunks_exact(MEMBER_SIZE).find_map(|member| {
            let (name, kind, place) = (word(member, 0).ok()?, word(member, 4).ok()?, word(member, 8).ok()?);
            let bits = if composite.has_bit_fields() { place & 0x00ff_ffff } else { place };
            let is_bit_field = composite.has_bit_fields() && place >> 24 != 0;
            if name != 0 {
                return (self.is_named(name, wanted) && !is_bit_field).then_some(bits / 8);
            }
            let inner = self.resolve(kind)?;
            self.offset_within(&inner, wanted).map(|offset| bits / 8 + offset)
        })
    }

    /// Returns the structure or union with this id, following typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<Type<'a>> {
        let mut kind = *self.types.get(id.checked_sub(1)? as usize)?;
        for _ in 0..16 {
            if !kind.is_alias() {
                break;
            }
            kind = *self.types.get(kind.reference.checked_sub(1)? as usize)?;
        }
        kind.is_composite().then_some(kind)
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        self.strings
            .get(name as usize..)
            .and_then(|rest| rest.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn parse_types(section: &[u8]) -> Result<Vec<Type<'_>>, BtfError> {
    let mut types = Vec::new();
    let mut rest = section;
    while !rest.is_empty() {
        let head = Type { name: word(rest, 0)?, info: word(rest, 4)?, reference: word(rest, 8)?, members: &[] };
        let length = extra_length(&head);
        let members = rest.get(TYPE_SIZE..TYPE_SIZE + length).ok_or(BtfError::Malformed)?;
        types.push(Type { members, ..head });
        rest = rest.get(TYPE_SIZE + length..).ok_or(BtfError::Malformed)?;
    }
    Ok(types)
}

/// Returns the number of bytes that follow a type's header.
const fn extra_length(head: &Type<'_>) -> usize {
    match head.kind() {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * head.count(),
        KIND_ENUM | KIND_FUNC_PROTO => 8 * head.count(),
        _ => 0,
    }
}

fn word(bytes: &[u8], offset: usize) -> Result<u32, BtfError> {
    bytes
        .get(offset..offset + 4)
        .and_then(|four| four.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or(BtfError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct outer { u32 a; union { struct { u16 b; u16 c; }; u32 d; }; struct inner e; }` and `struct inner { u64 f; u64 g; }`.
    fn example() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0d\0e\0inner\0f\0g\0";
        let name = |text: &str| {
            let with_zero = [b"\0", text.as_bytes(), b"\0"].concat();
            strings.windows(with_zero.len()).position(|window| window == with_zero).expect("a name") as u32 + 1
        };
        let mut types: Vec<u32> = Vec::new();
        let composite = |kind: u32, count: u32| kind << 24 | count;
        types.extend([name("a"), KIND_INT << 24, 4, 0]); // 1: an integer
        types.extend([0, composite(KIND_STRUCT, 2), 4, name("b"), 1, 0, name("c"), 1, 16]); // 2
        types.extend([0, composite(KIND_UNION, 2), 4, 0, 2, 0, name("d"), 1, 0]); // 3
        types.extend([name("inner"), composite(KIND_STRUCT, 2), 16, name("f"), 1, 0, name("g"), 1, 64]); // 4
        types.extend([name("outer"), composite(KIND_STRUCT, 3), 24, name("a"), 1, 0, 0, 3, 32, name("e"), 4, 64]); // 5
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for field in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_within_nameless_ones() {
        let bytes = example();
        let btf = Btf::parse(&bytes).expect("well-formed");
        for (structure, member, offset) in [
            ("outer", "a", 0),
            ("outer", "b", 4),
            ("outer", "c", 6),
            ("outer", "d", 4),
            ("outer", "e", 8),
            ("inner", "g", 8),
        ] {
            assert_eq!(btf.offset(structure, member).expect("found"), offset, "{structure}.{member}");
        }
        assert!(matches!(btf.offset("outer", "g"), Err(BtfError::NoMember { .. })));
        assert!(matches!(btf.offset("oute", "a"), Err(BtfError::NoMember { .. })));
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_crash(position in 0usize..200, value in any::<u8>(), length in 0usize..220) {
            let mut bytes = example();
            let end = length.min(bytes.len());
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
            if let Ok(btf) = Btf::parse(&bytes[..end]) {
                drop(btf.offset("outer", "c"));
            }
        }
    }
}
