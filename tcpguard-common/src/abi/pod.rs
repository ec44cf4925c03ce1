//! Implementations of `Pod`, which allow aya to copy these types between the daemon and the kernel.

use aya::Pod;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    address::Address,
    challenge::{Endpoint, PortChallenge},
    clock::Clock,
    control::Control,
    instance::Instance,
    layout::{PortHandshakes, PortSyns, SocketLayout},
    prefix::PrefixCell,
    rule::Rule,
    source::SourceEntry,
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
    Control,
    Endpoint,
    Instance,
    PortChallenge,
    PortHandshakes,
    PortSyns,
    PrefixCell,
    Rule,
    SocketLayout,
    SourceEntry
);
