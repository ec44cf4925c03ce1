//! Building BPF programs: [`toolchain`] finds what is installed, [`build`] uses it.

pub mod build;
mod strip;
pub mod toolchain;

/// The target that BPF programs are compiled for.
#[cfg(target_endian = "little")]
pub const TARGET: &str = "bpfel-unknown-none";
/// The target that BPF programs are compiled for.
#[cfg(target_endian = "big")]
pub const TARGET: &str = "bpfeb-unknown-none";
