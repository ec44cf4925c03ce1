//! The part of xtask that build scripts and the lab use as well: compiling BPF programs and the dashboard, the build id
//! of the sources, and which lab tests may run at the same time.

pub mod bpf;
pub mod dashboard;
pub mod side_by_side;
pub mod sources;
