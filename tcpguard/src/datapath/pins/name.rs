//! The names of pins.

use std::fmt;

use tcpguard_common::abi::takeover::CarriedMap;

/// The folder of the maps, within that of a network namespace.
pub(super) const MAPS: &str = "maps";
/// The folder of links and programs, within that of a network namespace.
pub(super) const LINKS: &str = "links";
/// The suffix of pins that are not in force yet. (bpffs does not allow dots in names.)
pub(super) const NEXT: &str = "-next";
/// The suffix of pins that are about to be renamed.
pub(super) const NEW: &str = "-new";
/// Separates the name of a map that belongs to a single datapath from that datapath's generation.
pub(super) const OF: &str = "-of-";

const XDP: &str = "xdp-";
const TCX: &str = "tcx-";
const CHAINED: &str = "chained-";
const REPLACEMENT: &str = "guard-";
const FILTER: &str = "filter-";
const FILTER_ON_OUR_QDISC: &str = "filter-on-ours-";

/// The name of the pin of a link or a program, for the interface with an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datapath) enum LinkName {
    /// The link of the program at XDP.
    Xdp(u32),
    /// The link of the program at traffic control.
    Tcx(u32),
    /// The program that tcpguard is chained before.
    Chained(u32),
    /// The program of tcpguard that replaces it.
    Replacement(u32),
    /// The program of a filter of a clsact qdisc, and whether tcpguard created the qdisc.
    Filter {
        /// The index of the interface.
        index: u32,
        /// Whether tcpguard created the qdisc.
        made_qdisc: bool,
    },
}

impl LinkName {
    /// Returns the name until the pin is in force.
    pub fn next(self) -> String {
        format!("{self}{NEXT}")
    }

    /// Parses the name of a pin that is in force.
    pub fn parse(name: &str) -> Option<Self> {
        let index = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
        index(XDP)
            .map(Self::Xdp)
            .or_else(|| index(TCX).map(Self::Tcx))
            .or_else(|| index(CHAINED).map(Self::Chained))
            .or_else(|| index(REPLACEMENT).map(Self::Replacement))
            .or_else(|| index(FILTER_ON_OUR_QDISC).map(|index| Self::Filter { index, made_qdisc: true }))
            .or_else(|| index(FILTER).map(|index| Self::Filter { index, made_qdisc: false }))
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp(index) => write!(formatter, "{XDP}{index}"),
            Self::Tcx(index) => write!(formatter, "{TCX}{index}"),
            Self::Chained(index) => write!(formatter, "{CHAINED}{index}"),
            Self::Replacement(index) => write!(formatter, "{REPLACEMENT}{index}"),
            Self::Filter { index, made_qdisc: true } => write!(formatter, "{FILTER_ON_OUR_QDISC}{index}"),
            Self::Filter { index, made_qdisc: false } => write!(formatter, "{FILTER}{index}"),
        }
    }
}

/// Returns whether the object behind a pin of this name stays attached without it: removing the pin would only lose
/// track of it.
pub(in crate::datapath) fn outlasts_pin(name: &str) -> bool {
    [CHAINED, REPLACEMENT, FILTER].iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the name of the pin of a map that is carried over.
pub(super) fn of_map(carried: CarriedMap) -> String {
    format!("{}-{}", carried.map, carried.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_as_they_are_written() {
        let filters = [true, false].map(|made_qdisc| LinkName::Filter { index: 7, made_qdisc });
        let others = [LinkName::Xdp(7), LinkName::Tcx(7), LinkName::Chained(7), LinkName::Replacement(7)];
        for name in others.into_iter().chain(filters) {
            assert_eq!(LinkName::parse(&name.to_string()), Some(name));
            let outlasts = !matches!(name, LinkName::Xdp(_) | LinkName::Tcx(_));
            assert_eq!((outlasts_pin(&name.to_string()), outlasts_pin(&name.next())), (outlasts, outlasts), "{name}");
        }
        assert_eq!(LinkName::parse("xdp-7-next"), None);
        assert_eq!(LinkName::parse("handshake_completed"), None);
    }
}
