//! Which compiler and which linker build BPF programs here.
//!
//! Two kinds of compiler will do: one whose sysroot has `core` ready-made for BPF (Debian's
//! `rustc-web` with `libstd-rust-web-dev-bpf`), or a rustup nightly with the `rust-src` component,
//! which builds `core` itself. bpf-linker must be built against the LLVM version of that compiler.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::TARGET;

/// Overrides the search for a compiler: path of a rustc that has `core` for BPF.
pub const RUSTC_VARIABLE: &str = "TCPGUARD_BPF_RUSTC";

const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// Has `core` for BPF in its sysroot.
    ReadyMade {
        /// Path of its rustc.
        rustc: PathBuf,
    },
    /// rustup's nightly, with the sources of `core`.
    NightlyWithSource,
}

impl Compiler {
    /// The first that is found: the one named by [`RUSTC_VARIABLE`], the one on PATH, Debian's, rustup's nightly.
    pub fn find() -> Option<Self> {
        let named = env::var_os(RUSTC_VARIABLE).map(PathBuf::from);
        let candidates = named.into_iter().chain([PathBuf::from("rustc"), PathBuf::from(SYSTEM_RUSTC)]);
        candidates.into_iter().find(|rustc| has_ready_made_core(rustc)).map_or_else(
            || nightly_has_source().then_some(Self::NightlyWithSource),
            |rustc| Some(Self::ReadyMade { rustc }),
        )
    }

    /// A command that runs this compiler itself.
    pub fn rustc(&self) -> Command {
        match self {
            Self::ReadyMade { rustc } => Command::new(rustc),
            Self::NightlyWithSource => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
        }
    }

    /// The major version of the LLVM in this compiler.
    pub fn llvm_major(&self) -> Option<u32> {
        let version = output(self.rustc().arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        llvm.split('.').next()?.parse().ok()
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadyMade { rustc } => write!(formatter, "{} (has core for BPF)", rustc.display()),
            Self::NightlyWithSource => formatter.write_str("rustup's nightly with rust-src"),
        }
    }
}

fn has_ready_made_core(rustc: &Path) -> bool {
    sysroot(&mut Command::new(rustc)).is_some_and(|sysroot| sysroot.join("lib/rustlib").join(TARGET).exists())
}

fn nightly_has_source() -> bool {
    let mut nightly = Command::new("rustup");
    sysroot(nightly.args(["run", "nightly", "rustc"]))
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").exists())
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    // A build script runs with RUSTUP_TOOLCHAIN set to the host's toolchain; the question here is
    // about the compiler at that path.
    output(rustc.env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"])).map(|line| PathBuf::from(line.trim()))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Where `cargo xtask setup` puts bpf-linker: a folder per LLVM version, within the project's target folder.
pub fn linker_root(llvm_major: u32) -> PathBuf {
    target_folder().join("bpf-tools").join(format!("llvm-{llvm_major}"))
}

/// The project's target folder.
pub fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The folder with the bpf-linker for this LLVM version, where it is installed.
pub fn linker_folder(llvm_major: u32) -> Option<PathBuf> {
    let folder = linker_root(llvm_major).join("bin");
    folder.join("bpf-linker").exists().then_some(folder)
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}
