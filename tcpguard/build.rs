//! Compiles the BPF programs, which become part of the binary.

fn main() {
    xtask::bpf::build::build_script("tcpguard-ebpf", "tcpguard");
}
