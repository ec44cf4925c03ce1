//! Compiles the BPF programs and the dashboard, which become part of the binary.

fn main() {
    xtask::bpf::build::build_script("tcpguard-ebpf", "tcpguard", &["tc"]);
    xtask::dashboard::build_script();
}
