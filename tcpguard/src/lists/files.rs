//! Files of networks: one per line; `#` or `;` starts a comment.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::SystemTime,
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

    proptest::proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC*") {
            parse(&text);
        }
    }
}
