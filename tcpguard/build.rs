//! Compiles the BPF programs and the dashboard, which become part of the binary, and passes on the build id.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
};

use flate2::{Compression, write::GzEncoder};
use xtask::{
    bpf::{build::BpfCrate, toolchain::workspace},
    sources,
};

const VARIANT: &str = "tc";

fn main() {
    BpfCrate { folder: "tcpguard-ebpf", binary: "tcpguard", variants: &[VARIANT], shared: &["tcpguard-common"] }
        .build_script();
    for object in ["tcpguard.bpf.o".to_owned(), format!("tcpguard-{VARIANT}.bpf.o")] {
        if let Err(error) = compress(&object) {
            println!("cargo::error={object} cannot be compressed: {error}");
            std::process::exit(1);
        }
    }
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

/// Compresses a file of `OUT_DIR` into another one beside it.
fn compress(name: &str) -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut compressed = GzEncoder::new(Vec::new(), Compression::best());
    compressed.write_all(&fs::read(folder.join(name))?)?;
    fs::write(folder.join(format!("{name}.gz")), compressed.finish()?)
}
