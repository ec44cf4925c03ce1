//! Leave for aya to copy these types between the daemon and the kernel.

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

/// Holds only for types without padding, every bit pattern of which is a value.
const fn is_plain_data<T: FromBytes + IntoBytes + Copy + 'static>() {}

macro_rules! pod {
    ($($kind:ty),*) => {
        $(
            const _: () = is_plain_data::<$kind>();
            // SAFETY: the line above holds at compile time.
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
