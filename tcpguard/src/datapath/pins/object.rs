//! What is pinned somewhere, as the kernel describes it: nothing is taken for what its name says.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;

/// `union bpf_attr`, the part for pins.
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object at `path`, where nothing may be yet.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes { path: name.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the attributes point to a string that outlives the call, and name an open descriptor.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const attributes, size_of::<PinAttributes>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An object of the kernel that a pin names.
pub(in crate::datapath) struct PinnedObject {
    fd: OwnedFd,
    /// What `/proc/self/fdinfo` says of it.
    description: BTreeMap<String, String>,
}

impl PinnedObject {
    /// The one pinned at `path`.
    ///
    /// # Errors
    /// Where there is none, or it may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let attributes = PinAttributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
        // SAFETY: the attributes point to a string that outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<PinAttributes>()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave this process a new descriptor, which nobody else has.
        Self::of(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// This one.
    ///
    /// # Errors
    /// Where the kernel does not describe it.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let description = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        Ok(Self { fd, description })
    }

    /// A number of its description, decimal or `0x…`.
    pub fn number(&self, key: &str) -> Option<u32> {
        let text = self.description.get(key)?;
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// The kind of link that it is, where it is one.
    pub fn link_type(&self) -> Option<&str> {
        self.description.get("link_type").map(String::as_str)
    }

    /// Its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for PinnedObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
