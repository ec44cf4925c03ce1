//! Putting the XDP program on an interface, and taking it off again.

use aya::programs::{links::FdLink, loaded_programs, xdp::XdpMode as KernelMode};
use tcpguard_common::layout::program;
use tracing::warn;

use super::{
    Datapath, DatapathError,
    error::{innermost, reason},
};
use crate::config::XdpMode;

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// The driver.
    Native,
    /// The kernel's generic code, later and dearer.
    Generic,
}

impl AttachMode {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn kernel_mode(self) -> KernelMode {
        match self {
            Self::Native => KernelMode::Driver,
            Self::Generic => KernelMode::Skb,
        }
    }
}

/// The program on one interface, until this is dropped or the daemon dies.
#[derive(Debug)]
pub struct Attachment {
    _link: FdLink,
    /// Who runs the program.
    pub mode: AttachMode,
    /// Why it is not run natively, where that was wanted.
    pub fallback_reason: Option<String>,
}

impl Datapath {
    /// Puts the program on the interface of this name and index.
    ///
    /// # Errors
    /// Where another program is there, or the kernel refuses the mode asked for.
    pub fn attach(&mut self, interface: &str, index: u32, mode: XdpMode) -> Result<Attachment, DatapathError> {
        match mode {
            XdpMode::Native => self.attach_in(interface, index, AttachMode::Native),
            XdpMode::Generic => self.attach_in(interface, index, AttachMode::Generic),
            XdpMode::Auto => self.attach_natively_or_else(interface, index),
        }
    }

    fn attach_natively_or_else(&mut self, interface: &str, index: u32) -> Result<Attachment, DatapathError> {
        let reason = match self.attach_in(interface, index, AttachMode::Native) {
            Err(DatapathError::Attach { reason, .. }) => reason,
            attached_or_hopeless => return attached_or_hopeless,
        };
        warn!("{interface}: no native XDP ({reason}); the generic mode is used, which costs more per packet");
        let attachment = self.attach_in(interface, index, AttachMode::Generic)?;
        Ok(Attachment { fallback_reason: Some(reason), ..attachment })
    }

    fn attach_in(&mut self, interface: &str, index: u32, mode: AttachMode) -> Result<Attachment, DatapathError> {
        let failed =
            |reason: String| DatapathError::Attach { interface: interface.to_owned(), mode: mode.name(), reason };
        let program = self.xdp_mut(program::GUARD)?;
        let id = program.attach_to_if_index(index, mode.kernel_mode()).map_err(|error| {
            match innermost(&error).raw_os_error() {
                Some(libc::EPERM) => DatapathError::NotPermitted,
                _ => failed(reason(&error)),
            }
        })?;
        let link = program.take_link(id).map_err(|error| failed(reason(&error)))?;
        // Where bpf_link is not to be had, aya attaches by netlink, and the program would stay behind.
        // Kernels that load the program have bpf_link for XDP (Linux 5.9; the program's atomic
        // instructions came with 5.12), so this is for a kernel that nobody has seen yet.
        let link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        Ok(Attachment { _link: link, mode, fallback_reason: None })
    }
}

/// The name of a loaded program, as far as the kernel keeps it (15 bytes), where it tells.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// The error that names the program with this id on `interface`.
pub fn occupied(interface: &str, id: u32) -> DatapathError {
    DatapathError::Occupied { interface: interface.to_owned(), program: program_name(id).unwrap_or_default(), id }
}
