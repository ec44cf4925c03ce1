//! Compiling a BPF crate, from a build script or from a command.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    TARGET,
    toolchain::{Compiler, linker_folder, target_folder, workspace},
};

/// Headers in a frame are aligned to two bytes; where whole words may be read and written all the same, a
/// packet costs less. Without it the programs do the same with more instructions.
const FIRST_LLVM_WITH_MISALIGNED_ACCESS: u32 = 22;
/// Machines whose kernels let BPF programs do so (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
const TAKES_MISALIGNED_ACCESS: &[&str] = &["x86_64", "aarch64", "powerpc64", "s390x"];

const ARGUMENT_SEPARATOR: &str = "\x1f";

/// For build scripts: compiles the crate in `folder` (relative to the workspace's root), copies its binary
/// `binary` to `OUT_DIR/<binary>.bpf.o`, and tells cargo what that depends on. A failure ends the build with one sentence.
///
/// `variants` are features, each of which is compiled once more by itself, to `OUT_DIR/<binary>-<feature>.bpf.o`.
pub fn build_script(folder: &str, binary: &str, variants: &[&str]) {
    let folder = workspace().join(folder);
    let all = std::iter::once(None).chain(variants.iter().copied().map(Some));
    let result = all.into_iter().try_for_each(|variant| compile_for_build_script(&folder, binary, variant));
    if let Err(error) = result {
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
        std::process::exit(1);
    }
}

fn compile_for_build_script(folder: &Path, binary: &str, variant: Option<&str>) -> Result<()> {
    for source in [folder.to_owned(), workspace().join("tcpguard-common"), workspace().join("tests/src/flood/plan.rs")]
    {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    println!("cargo::rerun-if-env-changed={}", super::toolchain::RUSTC_VARIABLE);
    let out_folder = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: this is for build scripts")?);
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    // One for all profiles and packages, or each would compile core's companions anew.
    let target_folder = target_folder().join("bpf");
    let mut cargo = cargo(folder, "build", &architecture)?;
    cargo.arg("--target-dir").arg(&target_folder);
    if let Some(feature) = variant {
        cargo.args(["--features", feature]);
    }
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the BPF programs in {} do not compile: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    }
    let object = target_folder.join(TARGET).join("release").join(binary);
    let suffix = variant.map_or_else(String::new, |feature| format!("-{feature}"));
    let copy = out_folder.join(format!("{binary}{suffix}.bpf.o"));
    fs::copy(&object, &copy)
        .with_context(|| format!("cannot copy {} to {}", object.display(), copy.display()))
        .map(drop)
}

/// `cargo <verb> --release` for the BPF crate in `folder`, to run on hosts of `architecture` (Rust's name for it).
///
/// # Errors
/// Where no compiler or no linker is installed, or the compiler's LLVM version is not to be found out.
pub fn cargo(folder: &Path, verb: &str, architecture: &str) -> Result<Command> {
    let compiler = Compiler::find()
        .context("no compiler for BPF is installed here: run `cargo xtask setup`, which installs one or says how")?;
    let llvm = compiler.llvm_major().with_context(|| format!("cannot tell the LLVM version of {compiler}"))?;
    let linker = linker_folder(llvm)
        .with_context(|| format!("no bpf-linker for LLVM {llvm} is installed here: run `cargo xtask setup`"))?;
    let mut command = match (&compiler, verb) {
        (Compiler::ReadyMade { rustc }, "clippy") => clippy_beside(rustc),
        _ => Command::new("cargo"),
    };
    for variable in inherited_from_outer_cargo() {
        command.env_remove(variable);
    }
    command.current_dir(folder);
    match &compiler {
        Compiler::ReadyMade { rustc } => {
            // aya-ebpf turns on one unstable feature (asm_experimental_arch).
            command.arg(verb).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        Compiler::NightlyWithSource => {
            command.args(["+nightly", verb, "-Z", "build-std=core"]);
        }
    }
    let mut path = OsString::from(linker);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let target_architecture = format!("--cfg=bpf_target_arch=\"{}\"", bpf_architecture(architecture));
    let mut flags = vec!["-Cdebuginfo=2", "-Clink-arg=--btf", &target_architecture];
    if llvm >= FIRST_LLVM_WITH_MISALIGNED_ACCESS && TAKES_MISALIGNED_ACCESS.contains(&architecture) {
        flags.push("-Clink-arg=--cpu-features=+allows-misaligned-mem-access");
    }
    command
        .args(["--release", "--target", TARGET])
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(ARGUMENT_SEPARATOR));
    Ok(command)
}

/// cargo-clippy runs the clippy-driver beside it, which must be of the same make as the compiler.
fn clippy_beside(rustc: &Path) -> Command {
    Command::new(rustc.with_file_name("cargo-clippy"))
}

/// What a cargo that runs a build script sets, and what would lead the inner one astray.
fn inherited_from_outer_cargo() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| {
        name.to_str().is_some_and(|name| {
            matches!(name, "RUSTC" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "RUSTFLAGS" | "RUSTDOCFLAGS")
                || name == "RUSTUP_TOOLCHAIN"
                || name == "CARGO_ENCODED_RUSTFLAGS"
                || name.starts_with("CARGO_CFG_")
                || name.starts_with("CARGO_FEATURE_")
                || name.starts_with("CARGO_MANIFEST_")
                || name.starts_with("CARGO_PKG_")
        })
    })
}

fn bpf_architecture(rust_architecture: &str) -> &str {
    if rust_architecture.starts_with("riscv64") { "riscv64" } else { rust_architecture }
}
