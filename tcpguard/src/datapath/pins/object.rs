//! Pinned objects as the kernel describes them. Their names are not trusted.

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

/// The part of `union bpf_attr` for pins.
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object at `path`, which must not exist yet.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes { path: name.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the attributes point to a string that outlives the call, and name an open descriptor.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const attributes, size_of::<PinAttributes>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A BPF object of the kernel, usually opened by its pin.
pub(in crate::datapath) struct PinnedObject {
    fd: OwnedFd,
    /// The fields of its `/proc/self/fdinfo` file.
    description: BTreeMap<String, String>,
}

impl PinnedObject {
    /// Opens the object pinned at `path`.
    ///
    /// # Errors
    /// Returns an error if nothing is pinned there, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let attributes = PinAttributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
        // SAFETY: the attributes point to a string that outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<PinAttributes>()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that has no other owner.
        Self::of(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Describes the object of an open descriptor.
    ///
    /// # Errors
    /// Returns an error if its fdinfo file cannot be read.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let description = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        Ok(Self { fd, description })
    }

    /// Returns a field that is a number, decimal or `0x…`.
    pub fn number(&self, key: &str) -> Option<u32> {
        let text = self.description.get(key)?;
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// Returns the link type, such as `xdp`, if the object is a link.
    pub fn link_type(&self) -> Option<&str> {
        self.description.get("link_type").map(String::as_str)
    }

    /// Returns the object's descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for PinnedObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
