//! Attachment to XDP, held by a `bpf_link`.

use aya::programs::{Xdp, links::FdLink, xdp::XdpLink};
use tcpguard_common::abi::names::program;
use tracing::{info, warn};

use super::{AttachMode, Attachment, Hold, Target, attach_error, occupied};
use crate::{
    config::{Coexist, XdpMode},
    datapath::{
        Datapath, DatapathError,
        error::{innermost, reason},
        pins::LinkName,
    },
    fault,
};

impl Datapath {
    /// Replaces the program of a pinned link, or attaches anew if the link's mode is not the `wanted` one. Returns
    /// `None` if there is no pinned link in use.
    pub(super) fn take_over_link(
        &mut self,
        target: Target<'_>,
        wanted: XdpMode,
    ) -> Result<Option<Attachment>, DatapathError> {
        let name = LinkName::Xdp(target.index).to_string();
        let pinned = self.pins.as_ref().and_then(|pins| pins.link(&name, "xdp"));
        let Some(pinned) = pinned.filter(|pinned| pinned.index == target.index) else { return Ok(None) };
        let Some((_, mode)) = target.program.filter(|(found, _)| *found == pinned.program) else {
            self.unpin(&name);
            return Ok(None);
        };
        let mode = mode.unwrap_or(AttachMode::Native);
        if !mode.is_what(wanted) {
            warn!(
                "{}: not guarded for a moment, because the {} mode is no longer configured",
                target.name,
                mode.name()
            );
            self.unpin(&name);
            drop(pinned);
            return self.attach_xdp(Target { program: None, ..target }, wanted, Coexist::Refuse).map(Some);
        }
        let failed = |reason: String| attach_error(target, mode, reason);
        fault::point("replacing the program of an interface");
        let program = self.packet_program_at_xdp()?;
        let link = XdpLink::try_from(pinned.link).map_err(|error| failed(error.to_string()))?;
        let id = program.attach_to_link(link).map_err(|error| failed(reason(&error)))?;
        let link = program.take_link(id).map_err(|error| failed(reason(&error)))?;
        fault::point("the program of an interface is replaced");
        info!("{}: taken over from the previous daemon", target.name);
        let link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        let is_fallback = mode == AttachMode::Generic && wanted == XdpMode::Auto;
        let remark = is_fallback.then(|| "the previous daemon could not attach natively".to_owned());
        Ok(Some(Attachment { index: target.index, hold: Hold::Link(link), mode, remark }))
    }

    pub(super) fn attach_natively_or_else(&mut self, target: Target<'_>) -> Result<Attachment, DatapathError> {
        let reason = match self.attach_in(target, AttachMode::Native) {
            Err(DatapathError::Attach { reason, .. }) => reason,
            attached_or_hopeless => return attached_or_hopeless,
        };
        warn!("{}: no native XDP ({reason}); using the generic mode, which costs more per packet", target.name);
        let attachment = self.attach_in(target, AttachMode::Generic)?;
        Ok(Attachment { remark: Some(reason), ..attachment })
    }

    pub(super) fn attach_in(&mut self, target: Target<'_>, mode: AttachMode) -> Result<Attachment, DatapathError> {
        let failed = |reason: String| attach_error(target, mode, reason);
        fault::point("attaching to an interface");
        let program = self.packet_program_at_xdp()?;
        let id = program.attach_to_if_index(target.index, mode.kernel_mode()).map_err(|error| {
            match innermost(&error).raw_os_error() {
                Some(libc::EPERM) => DatapathError::NotPermitted,
                // Another program was attached in the meantime.
                Some(libc::EBUSY | libc::EEXIST) => occupied(target.name, 0),
                _ => failed(reason(&error)),
            }
        })?;
        let link = program.take_link(id).map_err(|error| failed(reason(&error)))?;
        fault::point("attached to an interface");
        // Without bpf_link, aya attaches by netlink, and the program would stay attached. Kernels that
        // load the program have bpf_link for XDP (Linux 5.9; the program's atomic instructions came
        // with 5.12), so no known kernel reaches this error.
        let mut link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        if let Some(pins) = &self.pins {
            link = pins.add_link(&LinkName::Xdp(target.index).to_string(), link)?;
        }
        Ok(Attachment { index: target.index, hold: Hold::Link(link), mode, remark: None })
    }

    fn packet_program_at_xdp(&mut self) -> Result<&mut Xdp, DatapathError> {
        self.xdp_mut(program::PACKET)
    }
}
