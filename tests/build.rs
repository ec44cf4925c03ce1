//! Compiles the flood, which becomes part of the lab.

fn main() {
    xtask::bpf::build::build_script("tests/flood-ebpf", "flood", &[]);
}
