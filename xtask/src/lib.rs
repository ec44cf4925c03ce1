//! What the build scripts of this workspace share: finding a compiler for BPF, and using it.

pub mod bpf;
pub mod dashboard;
