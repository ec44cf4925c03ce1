//! The part of xtask that build scripts and the lab use as well: compiling BPF programs and the dashboard, and the build
//! id of the sources.

pub mod bpf;
pub mod dashboard;
pub mod sources;
