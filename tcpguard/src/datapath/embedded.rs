//! The BPF objects embedded in this binary, compressed: they are needed once, at the start, and are a twentieth of it otherwise.

use std::{
    io::{self, Read as _},
    ops::Deref,
};

use flate2::read::GzDecoder;
use zerocopy::IntoBytes as _;

use super::DatapathError;
use crate::config::Hook;

static AT_XDP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tcpguard.bpf.o.gz"));
/// The programs compiled for traffic control.
static AT_TC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tcpguard-tc.bpf.o.gz"));

/// A BPF object in memory, aligned as parsers of ELF files require.
pub struct Object {
    words: Vec<u64>,
    length: usize,
}

impl Deref for Object {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.words.as_bytes()[..self.length]
    }
}

/// Returns the object with the programs for `hook`.
pub fn object_for(hook: Hook) -> Result<Object, DatapathError> {
    let compressed = match hook {
        Hook::Xdp => AT_XDP,
        Hook::Tc => AT_TC,
    };
    decompressed(compressed).map_err(|source| DatapathError::Host { what: "the embedded BPF programs", source })
}

fn decompressed(compressed: &[u8]) -> io::Result<Object> {
    let mut bytes = Vec::new();
    GzDecoder::new(compressed).read_to_end(&mut bytes)?;
    let mut words = vec![0; bytes.len().div_ceil(size_of::<u64>())];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    Ok(Object { words, length: bytes.len() })
}
