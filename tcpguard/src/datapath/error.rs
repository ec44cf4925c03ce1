//! What can go wrong between the daemon and the kernel, each in one sentence with what to do next.

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::PinError;

/// Why the datapath could not be loaded, attached or read.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The caller lacks the privilege.
    #[error(
        "loading BPF programs needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON): run tcpguard with sudo or as its service"
    )]
    NotPermitted,
    /// What should outlive the daemon cannot be pinned, or another daemon has it.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The kernel refused the object.
    #[error("the kernel cannot load tcpguard's maps: {0}; tcpguard needs Linux 5.15 or later")]
    Object(String),
    /// The kernel refused a program.
    #[error("the kernel refused the BPF program {program}: {reason}; tcpguard needs Linux 5.15 or later")]
    Program {
        /// The program.
        program: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// The object in this binary lacks something: the two halves do not belong together.
    #[error("this binary's BPF object has no {0}: build tcpguard anew")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("cannot use the BPF map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// The reason.
        source: MapError,
    },
    /// A source could not be given an entry.
    #[error("there is no room for an entry of {0} in the source table")]
    NoRoom(tcpguard_common::address::Address),
    /// A batch could not be read.
    #[error("cannot read the BPF map {map}: {source}")]
    Batch {
        /// The map.
        map: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// Something about this host could not be found out.
    #[error("cannot find out {what}: {source}")]
    Host {
        /// What.
        what: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// There is no interface of this name.
    #[error("there is no interface {0} in this network namespace: `ip link` lists those there are")]
    NoInterface(String),
    /// Its frames cannot be read.
    #[error(
        "interface {0} is not an Ethernet interface (a tunnel?), and others cannot be guarded: name the one below it"
    )]
    NotEthernet(String),
    /// There is nothing to guard.
    #[error(
        "there is no default route that would tell which interface to guard: name them with `interfaces = [\"…\"]` or --interface"
    )]
    NoDefaultRoute,
    /// Another XDP program is there.
    #[error(
        "interface {interface} already has the XDP program {program} (id {id}): coexist = \"chain\" has tcpguard run before it, attach = \"tc\" beside it; or detach it with `ip link set dev {interface} xdp off`"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The program's name.
        program: String,
        /// The program's id.
        id: u32,
    },
    /// It cannot take another program's place.
    #[error("interface {interface}: {reason}")]
    NotChained {
        /// The interface.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// The program could not be attached.
    #[error("cannot attach to interface {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// native or generic.
        mode: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// The kernel has no link for XDP, so that the program would outlive the daemon.
    #[error("this kernel cannot tie an XDP program to the daemon's life: tcpguard needs Linux 5.15 or later")]
    NoLink,
    /// Netlink failed.
    #[error("cannot ask the kernel about its interfaces: {0}")]
    Netlink(String),
}

impl DatapathError {
    pub(super) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, source }
    }

    pub(super) fn program(program: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |error| match innermost(&error).raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            _ => Self::Program { program, reason: reason(&error) },
        }
    }

    pub(super) fn object(error: &EbpfError) -> Self {
        match innermost(error).raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            _ => Self::Object(reason(error)),
        }
    }
}

/// The operating system's error at the bottom of `error`, or an unknown one.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(code) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return std::io::Error::from_raw_os_error(code);
        }
        if let Some(ProgramError::LoadError { io_error, .. }) = error.downcast_ref::<ProgramError>()
            && let Some(code) = io_error.raw_os_error()
        {
            return std::io::Error::from_raw_os_error(code);
        }
        current = error.source();
    }
    std::io::Error::other("unknown")
}

/// The reason at the bottom of `error`, on one line: a verifier's log is cut to its last line but one,
/// which says what it objects to.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = bottom.downcast_ref::<ProgramError>() {
        let log = verifier_log.to_string();
        let objection = log
            .lines()
            .rev()
            .find(|line| {
                !line.is_empty()
                    && !line.starts_with("processed ")
                    && !line.starts_with("verification time")
                    && !line.starts_with("stack depth")
            })
            .unwrap_or("no log");
        return format!("{io_error} ({objection})");
    }
    bottom.to_string().lines().next().unwrap_or("no reason given").to_owned()
}
