//! The rules for networks, from lists and blocks.

use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use tcpguard_common::{
    abi::{names::map, rule::Rule},
    address::Address,
};

use super::super::DatapathError;

/// Writes the rules.
pub struct RuleMap(LpmTrie<MapData, Address, Rule>);

impl RuleMap {
    pub(super) const fn new(map: LpmTrie<MapData, Address, Rule>) -> Self {
        Self(map)
    }

    /// Sets the rule of the network that begins at `first`, with a prefix length of `length` bits (for IPv4, 96 plus
    /// the length).
    ///
    /// # Errors
    /// Returns an error if the map cannot be written, or is full.
    pub fn set(&mut self, first: Address, length: u8, rule: Rule) -> Result<(), DatapathError> {
        self.0.insert(&Key::new(length.into(), first), rule, 0).map_err(DatapathError::map(map::RULES))
    }

    /// Removes a rule, if there is one.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn remove(&mut self, first: Address, length: u8) -> Result<(), DatapathError> {
        match self.0.remove(&Key::new(length.into(), first)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(DatapathError::map(map::RULES)(error)),
        }
    }
}
