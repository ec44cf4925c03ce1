//! The build id: a hash of the sources that the daemon and its BPF programs are built from. The daemon carries the id
//! of its build; the lab compares it with the sources as they are, so that no test runs against a stale binary.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    path::{Path, PathBuf},
};

/// Files and folders, relative to the workspace, that end up in the daemon: its crates, its BPF programs, the dashboard,
/// and the versions of its dependencies.
const INPUTS: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "tcpguard/Cargo.toml",
    "tcpguard/build.rs",
    "tcpguard/dashboard",
    "tcpguard/src",
    "tcpguard-common/Cargo.toml",
    "tcpguard-common/src",
    "tcpguard-ebpf/Cargo.lock",
    "tcpguard-ebpf/Cargo.toml",
    "tcpguard-ebpf/src",
    "xtask/src/bpf",
];

/// The environment variable that tcpguard's build script passes the id to the compiler in.
pub const BUILD_ID_VARIABLE: &str = "TCPGUARD_BUILD_ID";

/// Returns the build id of the sources in `workspace` as they are now.
///
/// # Errors
/// Returns an error if a file cannot be read; its kind is `NotFound` where this machine has no sources.
pub fn build_id(workspace: &Path) -> Result<String> {
    hash_of(workspace, INPUTS)
}

/// Returns a hash over the contents and relative paths of `inputs`, files or folders below `workspace`.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub fn hash_of(workspace: &Path, inputs: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for input in inputs {
        list_files(&workspace.join(input), &mut files)?;
    }
    files.sort_unstable();
    let mut hash = Fnv::default();
    for file in files {
        let name = file.strip_prefix(workspace).map_err(|error| Error::new(ErrorKind::InvalidInput, error))?;
        hash.add(name.as_os_str().as_encoded_bytes());
        hash.add(&fs::read(&file)?);
    }
    Ok(format!("{:016x}", hash.0))
}

/// Prints the `rerun-if-changed` lines of all inputs, for a build script.
pub fn rerun_if_changed(workspace: &Path) {
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
}

fn list_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        // Snapshots are of tests, and a failing test writes new ones.
        let is_snapshot = path.extension().is_some_and(|extension| extension == "snap" || extension == "new");
        if !is_snapshot {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        list_files(&entry?.path(), files)?;
    }
    Ok(())
}

/// FNV-1a, 64 bits. Unlike the standard library's hasher it is the same for every version of Rust.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds `bytes` and their length, so that two inputs cannot be mistaken for one.
    fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::toolchain::workspace;

    #[test]
    fn the_id_changes_with_a_file_s_contents_and_name() {
        let folder = std::env::temp_dir().join(format!("tcpguard-sources-{}", std::process::id()));
        fs::create_dir_all(folder.join("src")).expect("a folder");
        let id = || hash_of(&folder, &["src"]).expect("hashed");
        fs::write(folder.join("src/one.rs"), "a").expect("written");
        let first = id();
        fs::write(folder.join("src/one.rs"), "b").expect("written");
        let second = id();
        fs::rename(folder.join("src/one.rs"), folder.join("src/two.rs")).expect("renamed");
        let third = id();
        fs::remove_dir_all(&folder).expect("removed");
        assert!(first != second && second != third, "{first} {second} {third}");
    }

    #[test]
    fn this_workspace_has_every_input() {
        assert_eq!(build_id(&workspace()).expect("an id").len(), 16);
    }
}
