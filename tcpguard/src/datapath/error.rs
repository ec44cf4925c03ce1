//! Errors of the datapath, each described in one sentence with the remedy.

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use bytesize::ByteSize;
use thiserror::Error;

use super::PinError;

/// Why the datapath could not be loaded, attached or read.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The process lacks the privileges to load BPF programs.
    #[error(
        "loading BPF programs needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON): run tcpguard with sudo or as its service"
    )]
    NotPermitted,
    /// The pins are unusable or held by another daemon.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The kernel rejected the BPF object.
    #[error("the kernel cannot load tcpguard's maps: {0}; tcpguard needs Linux 5.15 or later")]
    Object(String),
    /// The maps take more memory than the configuration allows.
    #[error(
        "the datapath's maps take {all}, {of_sources} of it for limits.max_sources, but limits.memory allows {limit}: lower limits.max_sources, or raise limits.memory"
    )]
    TooLittleMemory {
        /// The memory that all maps take.
        all: ByteSize,
        /// The part of it that the source table and its filter take.
        of_sources: ByteSize,
        /// The limit.
        limit: ByteSize,
    },
    /// The kernel rejected a program.
    #[error("the kernel rejected the BPF program {program}: {reason}; tcpguard needs Linux 5.15 or later")]
    Program {
        /// The name of the program.
        program: &'static str,
        /// The kernel's reason, on one line.
        reason: String,
    },
    /// The BPF object in this binary has no map or program of this name: daemon and datapath do not match.
    #[error("this binary's BPF object has no {0}: rebuild tcpguard")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("cannot access the BPF map {map}: {source}")]
    Map {
        /// The name of the map.
        map: &'static str,
        /// The underlying error.
        source: MapError,
    },
    /// No entry could be added to the source table for this source.
    #[error("the source table has no room for an entry for {0}")]
    NoRoom(tcpguard_common::address::Address),
    /// A map could not be read by a batch operation or waited for, or its descriptor could not be duplicated.
    #[error("cannot read the BPF map {map}: {source}")]
    Batch {
        /// The name of the map.
        map: &'static str,
        /// The underlying error.
        source: std::io::Error,
    },
    /// A property of the host could not be read.
    #[error("cannot read {what}: {source}")]
    Host {
        /// The property.
        what: &'static str,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The network namespace has no interface of this name.
    #[error("there is no interface {0} in this network namespace: `ip link` lists the existing ones")]
    NoInterface(String),
    /// The interface's frames have no Ethernet header, so the datapath cannot parse them.
    #[error(
        "interface {0} is not an Ethernet interface (a tunnel?) and cannot be guarded: name the interface below it"
    )]
    NotEthernet(String),
    /// The configuration names no interface, and there is no default route.
    #[error(
        "there is no default route to choose the interface to guard from: name it with `interfaces = [\"…\"]` or --interface"
    )]
    NoDefaultRoute,
    /// Another XDP program is attached to the interface.
    #[error(
        "interface {interface} already has the XDP program {program} (id {id}): coexist = \"chain\" runs tcpguard before it, attach = \"tc\" beside it; or detach it with `ip link set dev {interface} xdp off`"
    )]
    Occupied {
        /// The name of the interface.
        interface: String,
        /// The name of the program, truncated to 15 bytes by the kernel; empty if unknown.
        program: String,
        /// The kernel's id of the program.
        id: u32,
    },
    /// tcpguard cannot be chained before the interface's program.
    #[error("interface {interface}: {reason}")]
    NotChained {
        /// The name of the interface.
        interface: String,
        /// The reason.
        reason: String,
    },
    /// The program could not be attached.
    #[error("cannot attach to interface {interface} in {mode} mode: {reason}")]
    Attach {
        /// The name of the interface.
        interface: String,
        /// The mode: `native`, `generic` or `tc`.
        mode: &'static str,
        /// The kernel's reason, on one line.
        reason: String,
    },
    /// The kernel has no `bpf_link` for XDP, so the program would stay attached after the daemon ends.
    #[error("this kernel cannot attach an XDP program by a bpf_link: tcpguard needs Linux 5.15 or later")]
    NoLink,
    /// A netlink request failed.
    #[error("cannot query the kernel's interfaces: {0}")]
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

/// Returns the operating system error in the chain of sources of `error`, or one that reads "unknown".
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

/// Returns the innermost source of `error` on one line. Of a verifier log only the last line before the
/// statistics is kept: the verifier's objection.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut bottom = error;
    while !matches!(bottom.downcast_ref(), Some(ProgramError::LoadError { .. }))
        && let Some(source) = bottom.source()
    {
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
