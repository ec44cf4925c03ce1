//! Compiles the flood generator, which becomes part of the lab.

use xtask::bpf::build::BpfCrate;

fn main() {
    let shared = &["tcpguard-common", "tests/src/flood/plan.rs"];
    BpfCrate { folder: "tests/flood-ebpf", binary: "flood", variants: &[], shared }.build_script();
}
