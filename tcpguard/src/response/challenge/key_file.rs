//! The file with the key that several gateways share (`challenge.key_file`).

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::secrets::Key;
use crate::time::Every;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The maximum size in bytes: a key and a comment.
const MAX_BYTES: u64 = 1024;
/// Hexadecimal digits of a key.
const DIGITS: usize = 32;
/// The bits of a mode that let others than the owner read or write.
const OF_OTHERS: u32 = 0o077;

/// What tells that the file has changed, or who owns or may read it: the times of its change, its size and its inode.
type Stamp = (i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ctime(), metadata.ctime_nsec(), metadata.size(), metadata.ino()))
}

/// Follows the file.
pub(super) struct KeyFile {
    path: PathBuf,
    due: Every,
    /// When it was last read; the outer `None` before the first time.
    read: Option<Option<Stamp>>,
}

impl KeyFile {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), due: Every::new(LOOK), read: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the key if the file has changed since the last call, or why it cannot be used.
    pub fn review(&mut self, now: Instant) -> Option<Result<Key, String>> {
        if !self.due.is_due(now) {
            return None;
        }
        let stamp = stamp(&self.path);
        if self.read.replace(stamp) == Some(stamp) {
            return None;
        }
        Some(
            check_owner(&self.path)
                .and_then(|()| read(&self.path))
                .map_err(|error| format!("{}: {error}", self.path.display())),
        )
    }
}

/// Checks that the file at `path` belongs to root or to this process's user.
fn check_owner(path: &Path) -> io::Result<()> {
    if [0, nix::unistd::geteuid().as_raw()].contains(&std::fs::metadata(path)?.uid()) {
        return Ok(());
    }
    Err(io::Error::other("it must belong to root or to the user that runs tcpguard"))
}

/// Reads the key of the file at `path`.
///
/// # Errors
/// Returns an error if others than its owner can read or write it, or it holds no key.
pub fn read(path: &Path) -> io::Result<Key> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & OF_OTHERS != 0 {
        return Err(io::Error::other("it must be a file that nobody but its owner can read (chmod 600)"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    parse(&text)
        .ok_or_else(|| io::Error::other("it must hold 32 hexadecimal digits, as `openssl rand -hex 16` prints them"))
}

/// Returns the key in a text; `#` starts a comment.
fn parse(text: &str) -> Option<Key> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut keys = lines.filter(|line| !line.is_empty());
    let (digits, None) = (keys.next()?, keys.next()) else { return None };
    if digits.len() != DIGITS || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let (first, second) = digits.split_at(DIGITS / 2);
    let key = [first, second].map(|half| u64::from_str_radix(half, 16).ok());
    Some([key[0]?, key[1]?])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const TEXT: &str = "# shared by gw1 and gw2\n00000000000000ff0123456789ABCDEF # since Monday\n";

    #[test]
    fn a_key_has_32_digits() {
        assert_eq!(parse(TEXT), Some([0xff, 0x0123_4567_89ab_cdef]));
        let bad = ["", "#\n", "00ff", "+0000000000000ff0123456789abcdef", "00000000000000ff0123456789abcdefa"];
        assert!(bad.iter().all(|text| parse(text).is_none()));
        assert_eq!(parse(&TEXT.repeat(2)), None, "two of them");
    }

    #[test]
    fn it_is_read_when_it_changes_and_only_if_it_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (mut file, start) = (KeyFile::new(&path), Instant::now());
        let mut look = |seconds: u64| file.review(start + Duration::from_secs(seconds));
        assert!(look(0).is_some_and(|key| key.is_err()), "there is none");
        assert!(look(1).is_none());
        fs::write(&path, TEXT).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
        assert!(look(2).is_some_and(|key| key.is_err_and(|problem| problem.contains("chmod 600"))));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
        assert_eq!(look(3), Some(Ok([0xff, 0x0123_4567_89ab_cdef])));
        assert!(look(4).is_none());
    }
}
