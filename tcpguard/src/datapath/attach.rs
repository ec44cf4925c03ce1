//! Putting the XDP program on an interface, and taking it off again.

use aya::programs::{
    links::FdLink,
    loaded_programs,
    xdp::{XdpLink, XdpMode as KernelMode},
};
use tcpguard_common::layout::program;
use tracing::{info, warn};

use super::{
    Datapath, DatapathError,
    error::{innermost, reason},
};
use crate::{config::XdpMode, fault};

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

    const fn is_what(self, wanted: XdpMode) -> bool {
        match wanted {
            XdpMode::Auto => true,
            XdpMode::Native => matches!(self, Self::Native),
            XdpMode::Generic => matches!(self, Self::Generic),
        }
    }
}

/// The interface to attach to, as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: u32,
    /// The XDP program that it has: its id, and who runs it, where that is known.
    pub program: Option<(u32, Option<AttachMode>)>,
}

/// The program on one interface. It is taken off when this is dropped, unless it is pinned.
#[derive(Debug)]
pub struct Attachment {
    index: u32,
    _link: FdLink,
    /// Who runs the program.
    pub mode: AttachMode,
    /// Why it is not run natively, where that was wanted.
    pub fallback_reason: Option<String>,
}

impl Attachment {
    pub(super) fn pin_name(&self) -> String {
        pin_name(self.index)
    }
}

fn pin_name(index: u32) -> String {
    format!("xdp-{index}")
}

impl Datapath {
    /// Puts the program on an interface. One that a daemon before this one has left there is replaced: not one frame
    /// comes by neither of them.
    ///
    /// # Errors
    /// Where another program is there, or the kernel refuses the mode asked for.
    pub fn attach(&mut self, target: Target<'_>, mode: XdpMode) -> Result<Attachment, DatapathError> {
        if let Some(attachment) = self.take_over(target, mode)? {
            return Ok(attachment);
        }
        match mode {
            XdpMode::Native => self.attach_in(target, AttachMode::Native),
            XdpMode::Generic => self.attach_in(target, AttachMode::Generic),
            XdpMode::Auto => self.attach_natively_or_else(target),
        }
    }

    /// Takes off an attachment whose interface is gone, or is not to be guarded any more.
    pub fn let_go(&self, attachment: Attachment) {
        if let Some(pins) = &self.pins {
            pins.remove_link(&attachment.pin_name());
        }
        drop(attachment);
    }

    /// Replaces the program of an attachment that is pinned; `None` where there is none, or not as it is wanted now.
    fn take_over(&mut self, target: Target<'_>, wanted: XdpMode) -> Result<Option<Attachment>, DatapathError> {
        let name = pin_name(target.index);
        let pinned = self.pins.as_ref().and_then(|pins| pins.link(&name, "xdp"));
        let pinned = pinned.filter(|pinned| pinned.index == target.index);
        let Some((found, mode)) = target.program else {
            if let Some(pins) = &self.pins {
                pins.remove_link(&name);
            }
            return Ok(None);
        };
        let Some(pinned) = pinned.filter(|pinned| pinned.program == found) else {
            return Err(occupied(target.name, found));
        };
        let mode = mode.unwrap_or(AttachMode::Native);
        if !mode.is_what(wanted) {
            warn!(
                "{}: for a moment it is not guarded, since the {} mode is not wanted any more",
                target.name,
                mode.name()
            );
            if let Some(pins) = &self.pins {
                pins.remove_link(&name);
            }
            return Ok(None);
        }
        let failed = |reason: String| attach_error(target, mode, reason);
        fault::point("replacing the program of an interface");
        let program = self.xdp_mut(program::GUARD)?;
        let link = XdpLink::try_from(pinned.link).map_err(|error| failed(error.to_string()))?;
        let id = program.attach_to_link(link).map_err(|error| failed(reason(&error)))?;
        let link = program.take_link(id).map_err(|error| failed(reason(&error)))?;
        fault::point("the program of an interface is replaced");
        info!("{}: taken over from the daemon before", target.name);
        let link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        let is_fallback = mode == AttachMode::Generic && wanted == XdpMode::Auto;
        let fallback_reason = is_fallback.then(|| "the daemon before could not attach natively".to_owned());
        Ok(Some(Attachment { index: target.index, _link: link, mode, fallback_reason }))
    }

    fn attach_natively_or_else(&mut self, target: Target<'_>) -> Result<Attachment, DatapathError> {
        let reason = match self.attach_in(target, AttachMode::Native) {
            Err(DatapathError::Attach { reason, .. }) => reason,
            attached_or_hopeless => return attached_or_hopeless,
        };
        warn!("{}: no native XDP ({reason}); the generic mode is used, which costs more per packet", target.name);
        let attachment = self.attach_in(target, AttachMode::Generic)?;
        Ok(Attachment { fallback_reason: Some(reason), ..attachment })
    }

    fn attach_in(&mut self, target: Target<'_>, mode: AttachMode) -> Result<Attachment, DatapathError> {
        let failed = |reason: String| attach_error(target, mode, reason);
        fault::point("attaching to an interface");
        let program = self.xdp_mut(program::GUARD)?;
        let id = program.attach_to_if_index(target.index, mode.kernel_mode()).map_err(|error| {
            match innermost(&error).raw_os_error() {
                Some(libc::EPERM) => DatapathError::NotPermitted,
                _ => failed(reason(&error)),
            }
        })?;
        let link = program.take_link(id).map_err(|error| failed(reason(&error)))?;
        fault::point("attached to an interface");
        // Where bpf_link is not to be had, aya attaches by netlink, and the program would stay behind.
        // Kernels that load the program have bpf_link for XDP (Linux 5.9; the program's atomic
        // instructions came with 5.12), so this is for a kernel that nobody has seen yet.
        let mut link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        if let Some(pins) = &self.pins {
            link = pins.add_link(&pin_name(target.index), link)?;
        }
        Ok(Attachment { index: target.index, _link: link, mode, fallback_reason: None })
    }
}

fn attach_error(target: Target<'_>, mode: AttachMode, reason: String) -> DatapathError {
    DatapathError::Attach { interface: target.name.to_owned(), mode: mode.name(), reason }
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
