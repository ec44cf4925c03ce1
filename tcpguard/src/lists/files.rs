//! Files of networks: one per line; `#` or `;` starts a comment.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use crate::network::Network;

/// The maximum size of a file in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The contents of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The networks.
    pub networks: Vec<Network>,
    /// The lines that cannot be parsed, by number (from 1), with the reason.
    pub problems: Vec<(usize, String)>,
}

/// A file is read no sooner than this after it was written, in case whoever writes it in place has not finished;
const SETTLES: Duration = Duration::from_millis(300);
/// but not later than this after a change was first seen.
const LATEST: Duration = Duration::from_secs(5);
/// The minimum pause after reading a file, as a multiple of the time that took: a file that is written continuously takes
/// up a twentieth of one processor at most.
const PAUSE: u32 = 20;

/// When a file was last read, and when it may be read again.
#[derive(Debug, Default)]
pub struct Followed {
    /// Its stamp when it was last read; the outer `None` before the first time.
    read: Option<Option<Stamp>>,
    /// When a change that was not read yet was first seen.
    changed: Option<Instant>,
    not_before: Option<Instant>,
}

impl Followed {
    /// Returns whether the file is to be read now.
    pub fn is_due(&mut self, stamp: Option<Stamp>, time: SystemTime, now: Instant) -> bool {
        if self.read == Some(stamp) {
            self.changed = None;
            return false;
        }
        let is_first = self.read.is_none();
        let waited = now.duration_since(*self.changed.get_or_insert(now));
        let age = stamp.and_then(|stamp| time.duration_since(stamp.modified?).ok());
        let has_settled = age.is_none_or(|age| age >= SETTLES) || waited >= LATEST;
        let may_be_read = self.not_before.is_none_or(|not_before| now >= not_before);
        is_first || has_settled && may_be_read
    }

    /// Notes that the file was read from `start` to `end`, when it had this stamp; `None` if it was written meanwhile, so
    /// that it has to be read again.
    pub fn note_read(&mut self, stamp: Option<Option<Stamp>>, start: Instant, end: Instant) {
        if stamp.is_some() {
            (self.read, self.changed) = (stamp, None);
        }
        self.not_before = Some(end + PAUSE * end.duration_since(start));
    }
}

/// File metadata that shows whether the file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Stamp {
    /// Returns the stamp of the file at `path`, or `None` if it does not exist.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        Some(Self { modified: metadata.modified().ok(), size: metadata.len(), inode })
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// Returns an error if it cannot be read or is too large.
pub fn read(path: &Path) -> io::Result<Listing> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("the file is larger than {} MiB", MAX_FILE_BYTES / 1024 / 1024)));
    }
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Parses `text`. Valid lines are kept, whatever the others contain.
pub fn parse(text: &str) -> Listing {
    let mut listing = Listing::default();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split(['#', ';']).next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match content.parse::<Network>() {
            Ok(network) if network.is_too_wide() => listing.problems.push((
                number,
                format!("{network} would shut out too many: `tcpguard block {network} --force` denies it anyway"),
            )),
            Ok(network) => listing.networks.push(network),
            Err(error) => listing.problems.push((number, error.to_string())),
        }
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_reported_and_the_rest_kept() {
        let text = "# a list\n198.51.100.0/24\n\n198.51.100.9 ; inside\nnonsense\n2001:db8::/32 # six\n0.0.0.0/0\n10.1.2.3/8\r\n";
        let listing = parse(text);
        let networks: Vec<String> = listing.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["198.51.100.0/24", "198.51.100.9", "2001:db8::/32", "10.0.0.0/8"]);
        let numbers: Vec<usize> = listing.problems.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [5, 7]);
    }

    #[test]
    fn files_are_read_up_to_64_mib() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("list");
        std::fs::write(&path, "198.51.100.0/24\n# and nothing more ").expect("written");
        let file = File::options().write(true).open(&path).expect("a file");
        file.set_len(64 << 20).expect("a sparse file");
        assert_eq!(read(&path).expect("not too large"), parse("198.51.100.0/24\n"));
        file.set_len((64 << 20) + 1).expect("a sparse file");
        assert_eq!(read(&path).expect_err("too large").to_string(), "the file is larger than 64 MiB");
    }

    #[test]
    fn a_file_that_changes_has_another_stamp() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("list");
        assert_eq!(Stamp::of(&path), None);
        std::fs::write(&path, "a").expect("written");
        let first = Stamp::of(&path);
        assert!(first.is_some() && first == Stamp::of(&path));
        std::fs::write(&path, "ab").expect("written");
        assert_ne!(Stamp::of(&path), first);
    }

    #[test]
    fn a_file_is_read_once_it_has_settled_and_not_again_at_once() {
        let (start, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let second = Duration::from_secs(1);
        let stamp = |seconds: u32| Some(Stamp { modified: Some(time + second * seconds), size: 1, inode: 1 });
        let mut followed = Followed::default();
        let mut due = |stamp, seconds: u32| {
            let is_due = followed.is_due(stamp, time + second * seconds, start + second * seconds);
            if is_due {
                // It takes half a second, so that ten have to pass.
                followed.note_read(Some(stamp), start + second * seconds, start + second * seconds + second / 2);
            }
            is_due
        };
        assert!(due(stamp(0), 0), "the first time at once");
        assert!(!due(stamp(0), 20), "it did not change");
        assert!(!due(stamp(21), 21), "it was written just now");
        assert!(due(stamp(21), 22));
        assert!(!due(stamp(22), 24), "too soon after the last time");
        assert!(due(stamp(22), 33));
        // Written continuously, it is read nevertheless.
        assert_eq!((50..80).filter(|seconds| due(stamp(*seconds), *seconds)).count(), 3);
        assert!(due(None, 100), "it is gone");
    }

    #[test]
    fn fuzz_list_files() {
        crate::fuzz::run(
            &[b"# a list\n198.51.100.0/24\n2001:db8::/32 ; six\nnonsense\n0.0.0.0/0\n10.1.2.3/8\r\n"],
            |bytes| {
                let listing = parse(&String::from_utf8_lossy(bytes));
                for network in listing.networks {
                    assert!(!network.is_too_wide());
                    assert_eq!(network.to_string().parse(), Ok(network), "its text is the same network");
                }
            },
        );
    }
}
