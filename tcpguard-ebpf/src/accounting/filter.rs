//! The filter of sources that may have an entry.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    atomic,
    tracking::filter::{self, Block},
};

use crate::{settings, source::Source};

/// The daemon sets the number of blocks before it loads the program.
#[btf_map]
static KNOWN_SOURCES: Array<Block, 64> = Array::new();

/// Returns false only if the source has no entry.
#[inline(always)]
pub fn may_contain(source: Source) -> bool {
    let (block, word, mask) = filter::position(source.hash, settings::filter_blocks());
    KNOWN_SOURCES.get(block).is_some_and(|words| words[word] & mask == mask)
}

#[inline(always)]
pub fn insert(source: Source) {
    let (block, word, mask) = filter::position(source.hash, settings::filter_blocks());
    if let Some(words) = KNOWN_SOURCES.get_ptr_mut(block) {
        // SAFETY: elements of an array live as long as the program; bits are set atomically.
        atomic::set_bits(unsafe { &mut (*words)[word] }, mask);
    }
}
