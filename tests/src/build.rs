//! Whether what a test runs was built from the sources as they are.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use tcpguard::BUILD_ID;
use xtask::{bpf::toolchain::workspace, sources};

use crate::process::finish;

/// Returns the path of the daemon's binary that was built beside the tests.
///
/// # Errors
/// Returns an error if it has not been built, or was built from other sources.
pub fn binary() -> Result<PathBuf> {
    static CHECKED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&CHECKED, find)
}

/// Checks that the test itself, with the library and the BPF programs in it, was built from the sources as they are.
///
/// # Errors
/// Returns an error if it was not; it says which command rebuilds it.
pub fn check_test() -> Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    once(&CHECKED, || compare("this test, with the BPF programs in it,", BUILD_ID, "cargo xtask lab"))
}

/// Returns the result of the first `check`, whoever asks.
fn once<T: Clone>(checked: &OnceLock<Result<T, String>>, check: impl FnOnce() -> Result<T>) -> Result<T> {
    checked.get_or_init(|| check().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!(error))
}

fn find() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this runs from")?;
    let release = if here.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
    let rebuild = format!("cargo build -p tcpguard{release}");
    let binary = here
        .ancestors()
        .map(|folder| folder.join("tcpguard"))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("there is no tcpguard beside the tests: `{rebuild}` builds it"))?;
    compare(&format!("{}", binary.display()), &build_id(&binary)?, &rebuild)?;
    Ok(binary)
}

fn build_id(binary: &Path) -> Result<String> {
    let version = finish(std::process::Command::new(binary).arg("--version"))?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let id = text.split_once("(build ").and_then(|(_, rest)| rest.split_once(')'));
    id.map(|(id, _)| id.to_owned()).with_context(|| format!("it does not say its build id: {version}"))
}

fn compare(what: &str, built_from: &str, rebuild: &str) -> Result<()> {
    let now = match sources::build_id(&workspace()) {
        Ok(id) => id,
        // A virtual machine has the binaries alone.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("the sources cannot be read"),
    };
    ensure!(
        built_from == now,
        "{what} was built from other sources (build {built_from}, the sources are {now}): run `{rebuild}`"
    );
    Ok(())
}
