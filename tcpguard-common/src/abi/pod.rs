//! Implementations of `Pod`, which allow aya to copy these types between the daemon and the kernel.

use aya::Pod;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    abi::{
        counters::CpuCounts,
        lease::Lease,
        packet_layout::PacketLayout,
        place::ProtectedPort,
        port::{Endpoint, PortChallenge, PortHandshakes, PortMark, PortSyns},
        rule::Rule,
        signature::CompletedShapes,
        socket_layout::SocketLayout,
        syn_headers::SynHeaders,
        takeover::Instance,
    },
    address::Address,
    clock::Clock,
    tracking::{prefix::PrefixCell, source_table::Place},
};

/// Compiles only for types without padding for which every bit pattern is a valid value.
const fn is_plain_data<T: FromBytes + IntoBytes + Copy + 'static>() {}

macro_rules! pod {
    ($($kind:ty),*) => {
        $(
            const _: () = is_plain_data::<$kind>();
            // SAFETY: the assertion above compiles only for types without padding and invalid bit patterns.
            unsafe impl Pod for $kind {}
        )*
    };
}

pod!(
    Address,
    Clock,
    CompletedShapes,
    CpuCounts,
    Lease,
    Endpoint,
    Instance,
    PortChallenge,
    PortHandshakes,
    PortMark,
    PortSyns,
    PrefixCell,
    ProtectedPort,
    PacketLayout,
    Rule,
    SocketLayout,
    Place,
    SynHeaders
);
