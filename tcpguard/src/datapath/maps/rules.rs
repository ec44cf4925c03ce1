//! The rules for networks, from lists and blocks.

use aya::maps::{
    Array, MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use tcpguard_common::{
    abi::{names::map, rule::Rule},
    address::Address,
};

use super::super::DatapathError;

/// A table of the outline ([`tcpguard_common::abi::outline`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutlineTable {
    /// IPv4 networks with rules.
    ListedIpv4,
    /// Denied IPv4 networks.
    DeniedIpv4,
    /// The filter of IPv6 networks with rules.
    ListedIpv6,
}

impl OutlineTable {
    pub(super) const ALL: [Self; 3] = [Self::ListedIpv4, Self::DeniedIpv4, Self::ListedIpv6];

    /// Returns the name of its map.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ListedIpv4 => map::LISTED_IPV4,
            Self::DeniedIpv4 => map::DENIED_IPV4,
            Self::ListedIpv6 => map::LISTED_IPV6,
        }
    }
}

/// Writes the rules and their outline.
pub struct RuleMap {
    rules: LpmTrie<MapData, Address, Rule>,
    outline: [Array<MapData, u64>; 3],
    hash_key: u64,
}

impl RuleMap {
    pub(super) const fn new(
        rules: LpmTrie<MapData, Address, Rule>,
        outline: [Array<MapData, u64>; 3],
        hash_key: u64,
    ) -> Self {
        Self { rules, outline, hash_key }
    }

    /// Returns the hash key of the outline.
    pub const fn hash_key(&self) -> u64 {
        self.hash_key
    }

    /// Writes a word of the outline.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn set_word(&mut self, table: OutlineTable, word: u32, value: u64) -> Result<(), DatapathError> {
        self.outline[table as usize].set(word, value, 0).map_err(DatapathError::map(table.name()))
    }

    /// Sets the rule of the network that begins at `first`, with a prefix length of `length` bits (for IPv4, 96 plus
    /// the length).
    ///
    /// # Errors
    /// Returns an error if the map cannot be written, or is full.
    pub fn set(&mut self, first: Address, length: u8, rule: Rule) -> Result<(), DatapathError> {
        self.rules.insert(&Key::new(length.into(), first), rule, 0).map_err(DatapathError::map(map::RULES))
    }

    /// Removes a rule, if there is one.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn remove(&mut self, first: Address, length: u8) -> Result<(), DatapathError> {
        match self.rules.remove(&Key::new(length.into(), first)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(DatapathError::map(map::RULES)(error)),
        }
    }
}
