//! The state that one daemon hands over to the next: the maps that stay in use across a takeover, and which
//! datapath owns them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::{counters::COUNTS_VERSION, names::map};

/// The parameters of the maps that are carried over, stored in one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Instance {
    /// The generation of the datapath whose tracepoints count, among those that share these maps: during a
    /// takeover two are attached, and a handshake must be counted once. It increases with each datapath.
    pub generation: u64,
    /// The key of [`crate::hash`].
    pub hash_key: u64,
    /// Prefix lengths under which sources are accounted: IPv4 in the low byte, IPv6 in the next one.
    pub prefix_lengths: u64,
}

impl Instance {
    /// Creates the instance for newly created maps, with generation 0.
    pub const fn new(hash_key: u64, prefix_v4: u8, prefix_v6: u8) -> Self {
        Self { generation: 0, hash_key, prefix_lengths: prefix_v4 as u64 | (prefix_v6 as u64) << 8 }
    }
}

/// A map that is carried over to the next daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedMap {
    /// The name of the map.
    pub map: &'static str,
    /// The version of the map's content. It increases whenever an entry of the same size changes its meaning; a
    /// test compares it with the layout of the entries.
    pub version: u32,
    /// What is lost if the previous daemon's map does not fit; for the log.
    pub content: &'static str,
}

const fn carried(map: &'static str, version: u32, content: &'static str) -> CarriedMap {
    CarriedMap { map, version, content }
}

/// All maps that are carried over: the state collected by the datapath itself. Maps written by the daemon are
/// rewritten completely before the datapath that reads them takes over.
pub const CARRIED_MAPS: [CarriedMap; 18] = [
    carried(map::INSTANCE, 1, "all collected state"),
    carried(map::COUNTS, COUNTS_VERSION, "counters"),
    carried(map::SOURCES, 3, "what is known of each source"),
    carried(map::SOURCE_TAGS, 1, "what is known of each source (the tags)"),
    carried(map::SOURCES_HELD, 1, "what is known of each source (their number)"),
    carried(map::PREFIXES, 2, "the accounts of networks"),
    carried(map::DISTINCT, 1, "the number of different sources"),
    carried(map::SYN_BY_PORT, 1, "SYNs by port"),
    carried(map::HANDSHAKES_BY_PORT, 4, "handshakes by port"),
    carried(map::LISTENER_CHANGES, 1, "listener changes"),
    carried(map::PORT_LOADS, 1, "the load of each port"),
    carried(map::HANDSHAKES, 4, "half-open handshakes"),
    carried(map::FIRST_SYNS, 3, "first SYNs awaiting their retransmit"),
    carried(map::RETURNED_COOKIES, 2, "returned cookies"),
    carried(map::COMPLETED_SHAPES, 1, "what clients look like"),
    carried(map::SKETCH, 2, "the sketch of SYNs by source"),
    carried(map::ADMISSION, 1, "the load that admission is based on"),
    carried(map::ALLOWANCE, 1, "the allowance of new entries"),
];

/// The maps of the source table: none of them means anything without the others.
pub const SOURCE_TABLE: [&str; 3] = [map::SOURCES, map::SOURCE_TAGS, map::SOURCES_HELD];

#[cfg(test)]
mod tests {
    use quote::ToTokens;
    use syn::Item;

    use super::*;
    use crate::abi::counters::Counter;

    /// The layout of each map that is carried over: the name of the map, its version, the files that define its entries,
    /// and the fingerprint of what they define.
    const RECORDED: [(&str, u32, &[&str], u64); 18] = [
        (map::INSTANCE, 1, &[include_str!("takeover.rs")], 0x93a8_9dbf_3cd8_bf84),
        (map::COUNTS, 7, &[], 0x585f_c1a9_ce8c_3d50),
        (
            map::SOURCES,
            3,
            &[
                include_str!("../tracking/source_table.rs"),
                include_str!("../tracking/source.rs"),
                include_str!("../tracking/half_open.rs"),
                include_str!("../tracking/bucket.rs"),
                include_str!("../address.rs"),
                include_str!("../clock.rs"),
            ],
            0x926b_394d_221f_03cb,
        ),
        (map::SOURCE_TAGS, 1, &[include_str!("../tracking/source_table.rs")], 0x88b4_1923_2da4_a115),
        (
            map::SOURCES_HELD,
            1,
            &[include_str!("../../../tcpguard-ebpf/src/accounting/sources.rs")],
            0x8197_12c2_0128_decc,
        ),
        (
            map::PREFIXES,
            2,
            &[include_str!("../tracking/prefix.rs"), include_str!("../address.rs")],
            0xbd8d_f6ec_6dbb_be03,
        ),
        (map::DISTINCT, 1, &[include_str!("../tracking/distinct.rs")], 0x9222_a0ef_ed86_c025),
        (
            map::SYN_BY_PORT,
            1,
            &[include_str!("port.rs"), include_str!("../challenge/port_load.rs")],
            0x7790_3973_f2c3_2c89,
        ),
        (map::HANDSHAKES_BY_PORT, 4, &[include_str!("port.rs")], 0xd833_198a_8e3b_0a95),
        (
            map::LISTENER_CHANGES,
            1,
            &[include_str!("../../../tcpguard-ebpf/src/challenge/listeners.rs")],
            0x5d48_4a94_9084_9dd3,
        ),
        (map::PORT_LOADS, 1, &[include_str!("../challenge/port_load.rs")], 0xb5df_9c52_8050_0939),
        (
            map::HANDSHAKES,
            4,
            &[include_str!("../tracking/handshake.rs"), include_str!("../clock.rs")],
            0x5cfb_c356_f6fb_27f7,
        ),
        (map::FIRST_SYNS, 3, &[include_str!("../challenge/first_syn.rs")], 0x6e2f_e963_0fc2_69f9),
        (
            map::RETURNED_COOKIES,
            2,
            &[include_str!("../challenge/returned_cookie.rs"), include_str!("../clock.rs")],
            0xc593_f03e_df05_4909,
        ),
        (
            map::COMPLETED_SHAPES,
            1,
            &[include_str!("signature.rs"), include_str!("../packet/shape.rs")],
            0xdd9d_62f0_af2f_e654,
        ),
        (map::SKETCH, 2, &[include_str!("../tracking/sketch.rs")], 0xc00b_fb51_dcfc_033c),
        (map::ADMISSION, 1, &[include_str!("../tracking/admission.rs")], 0xdb5e_dd80_fc47_fffd),
        (map::ALLOWANCE, 1, &[include_str!("../tracking/admission.rs")], 0xdb5e_dd80_fc47_fffd),
    ];

    /// Returns a fingerprint of the constants, types and structures of these files, without comments, and of the order of
    /// the counters where there are none.
    fn fingerprint(map: &str, files: &[&str]) -> u64 {
        let mut definitions = String::new();
        for file in files {
            for item in syn::parse_file(file).expect("it compiles").items {
                let item = match item {
                    // Lists of maps are no layout.
                    Item::Const(item) if item.ident == "CARRIED_MAPS" || item.ident == "SOURCE_TABLE" => continue,
                    Item::Const(mut item) => {
                        item.attrs.clear();
                        item.into_token_stream()
                    }
                    Item::Type(mut item) => {
                        item.attrs.clear();
                        item.into_token_stream()
                    }
                    Item::Static(mut item) if item.ident == map => {
                        item.attrs.clear();
                        item.into_token_stream()
                    }
                    Item::Struct(mut item) => {
                        item.attrs.retain(|attribute| attribute.path().is_ident("repr"));
                        item.fields.iter_mut().for_each(|field| field.attrs.clear());
                        item.into_token_stream()
                    }
                    _ => continue,
                };
                definitions.push_str(&item.to_string());
            }
        }
        if map == map::COUNTS {
            definitions = Counter::ALL.iter().map(|counter| counter.name()).collect::<Vec<_>>().join(" ");
        }
        // FNV-1a: unlike the standard library's hasher it is the same for every version of Rust.
        definitions
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn a_layout_that_changes_raises_its_version() {
        for (carried, (map, version, files, recorded)) in CARRIED_MAPS.iter().zip(RECORDED) {
            let found = fingerprint(map, files);
            assert_eq!(
                (carried.map, carried.version),
                (map, version),
                "record the version of {map} in this test as well, and {found:#018x}"
            );
            assert!(
                found == recorded,
                "what defines the entries of {map} has changed: raise the version of {map} if an entry of the same size has \
                 another meaning now, and record {found:#018x} in this test"
            );
        }
    }
}
