//! Compiles the flood's BPF object, which the lab embeds.

fn main() {
    xtask::bpf::build::build_script("tests/flood-ebpf", "flood", &[]);
}
