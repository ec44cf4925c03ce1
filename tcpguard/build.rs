//! Compiles the BPF programs and the dashboard, which become part of the binary, and passes on the build id.

use xtask::{
    bpf::{build::BpfCrate, toolchain::workspace},
    sources,
};

fn main() {
    BpfCrate { folder: "tcpguard-ebpf", binary: "tcpguard", variants: &["tc"], shared: &["tcpguard-common"] }
        .build_script();
    xtask::dashboard::build_script();
    sources::rerun_if_changed(&workspace());
    match sources::build_id(&workspace()) {
        Ok(id) => println!("cargo::rustc-env={}={id}", sources::BUILD_ID_VARIABLE),
        Err(error) => {
            println!("cargo::error=the sources cannot be read: {error}");
            std::process::exit(1);
        }
    }
}
