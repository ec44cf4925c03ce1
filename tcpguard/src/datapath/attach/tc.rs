//! Attachment to the ingress of traffic control: by TCX if the kernel has it (Linux 6.6), otherwise by a filter of a
//! clsact qdisc.

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkOrder},
    tc::{NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use tcpguard_common::abi::names::program;
use tracing::{debug, info, warn};

use super::{AttachMode, Attachment, Hold, Target, attach_error};
use crate::{
    datapath::{
        Datapath, DatapathError,
        error::{innermost, reason},
        netlink::{has_filters, remove_clsact},
        pins::{LinkName, Pins},
    },
    fault,
};

/// The priority of the filter, which with its handle identifies it among others: it runs before all others.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0x7463, 0x7067);

/// A filter, which the kernel keeps independently of the daemon.
#[derive(Debug)]
pub(super) struct Filter {
    interface: String,
    /// Whether tcpguard created the qdisc.
    made_qdisc: bool,
}

/// Returns the name of the pin that marks a filter as tcpguard's.
fn filter_pin(index: u32, made_qdisc: bool) -> String {
    LinkName::Filter { index, made_qdisc }.to_string()
}

impl Datapath {
    /// Attaches the guard to the ingress of traffic control.
    pub(super) fn attach_tc(&mut self, target: Target<'_>) -> Result<Attachment, DatapathError> {
        if let Some(attachment) = self.take_over_tcx(target)? {
            return Ok(attachment);
        }
        fault::point("attaching to traffic control");
        let program = self.packet_program_at_tc()?;
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(target.name, TcAttachType::Ingress, order) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|error| failed(target, &error))?;
                let mut link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
                fault::point("attached to traffic control");
                if let Some(pins) = &self.pins {
                    link = pins.add_link(&LinkName::Tcx(target.index).to_string(), link)?;
                }
                Ok(Attachment { index: target.index, hold: Hold::Link(link), mode: AttachMode::Tc, remark: None })
            }
            Err(error) => match innermost(&error).raw_os_error() {
                Some(libc::EPERM) => Err(DatapathError::NotPermitted),
                // The kernel has no TCX.
                Some(libc::EINVAL) => self.attach_filter(target),
                _ => Err(failed(target, &error)),
            },
        }
    }

    fn take_over_tcx(&mut self, target: Target<'_>) -> Result<Option<Attachment>, DatapathError> {
        let name = LinkName::Tcx(target.index).to_string();
        let pinned = self.pins.as_ref().and_then(|pins| pins.link(&name, "tcx"));
        let Some(pinned) = pinned.filter(|pinned| pinned.index == target.index) else { return Ok(None) };
        fault::point("replacing the program of traffic control");
        let program = self.packet_program_at_tc()?;
        let link = SchedClassifierLink::try_from(pinned.link)
            .map_err(|error| attach_error(target, AttachMode::Tc, error.to_string()))?;
        let id = program.attach_to_link(link).map_err(|error| failed(target, &error))?;
        let link = program.take_link(id).map_err(|error| failed(target, &error))?;
        info!("{}: taken over from the previous daemon", target.name);
        let link = FdLink::try_from(link).map_err(|_| DatapathError::NoLink)?;
        Ok(Some(Attachment { index: target.index, hold: Hold::Link(link), mode: AttachMode::Tc, remark: None }))
    }

    /// Adds a filter to the clsact qdisc, creating the qdisc if necessary. The previous daemon's filter is replaced.
    fn attach_filter(&mut self, target: Target<'_>) -> Result<Attachment, DatapathError> {
        let made_before = self.left_filter(target.index);
        let made_qdisc = match qdisc_add_clsact(target.name) {
            Ok(()) => true,
            Err(error) if is_there(&error) => made_before.unwrap_or(false),
            Err(error) => return Err(attach_error(target, AttachMode::Tc, error.to_string())),
        };
        // Pinned before the filter exists, so that any filter of tcpguard's can be recognized.
        let fd = self.packet_program_fd()?;
        if let Some(pins) = &self.pins {
            if made_before.is_some_and(|before| before != made_qdisc) {
                pins.remove_link(&filter_pin(target.index, !made_qdisc));
            }
            pins.add_program(&filter_pin(target.index, made_qdisc), fd)?;
        }
        let program = self.packet_program_at_tc()?;
        let id = match made_before {
            Some(_) => replace_filter(program, target),
            None => put_filter(program, target),
        };
        let link =
            program.take_link(id.map_err(|error| failed(target, &error))?).map_err(|error| failed(target, &error))?;
        // Dropping the link would remove the filter, which is done explicitly instead.
        std::mem::forget(link);
        fault::point("attached to traffic control");
        let filter = Filter { interface: target.name.to_owned(), made_qdisc };
        let remark = Some("by a filter of a clsact qdisc, since this kernel has no TCX".to_owned());
        Ok(Attachment { index: target.index, hold: Hold::Filter(filter), mode: AttachMode::Tc, remark })
    }

    /// Returns whether tcpguard created the qdisc of the previous daemon's filter, or `None` if it left no filter.
    fn left_filter(&self, index: u32) -> Option<bool> {
        let pins = self.pins.as_ref()?;
        [true, false].into_iter().find(|made| pins.program(&filter_pin(index, *made)).is_some())
    }

    /// Removes the previous daemon's filter, if there is one.
    pub(super) fn remove_left_filter(&mut self, target: Target<'_>) {
        if let Some(made_qdisc) = self.left_filter(target.index) {
            self.remove_filter(target.index, Filter { interface: target.name.to_owned(), made_qdisc });
        }
    }

    pub(super) fn remove_filter(&mut self, index: u32, filter: Filter) {
        remove(index, &filter.interface, filter.made_qdisc);
        self.unpin(filter_pin(index, filter.made_qdisc));
    }

    fn packet_program_at_tc(&mut self) -> Result<&mut SchedClassifier, DatapathError> {
        let program = self.ebpf.program_mut(program::PACKET).ok_or(DatapathError::Missing(program::PACKET))?;
        program.try_into().map_err(DatapathError::program(program::PACKET))
    }
}

/// Removes tcpguard's filter from an interface, and the qdisc if tcpguard created it and no filter is left on it.
pub(in crate::datapath) fn remove(index: u32, interface: &str, made_qdisc: bool) {
    fault::point("removing a filter");
    match SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None) {
        // Dropping the link removes the filter.
        Ok(link) => drop(link),
        Err(error) => debug!("interface {interface} is gone with its filter: {error}"),
    }
    // Other programs may have added filters since.
    if made_qdisc
        && matches!(has_filters(index), Ok(false))
        && let Err(error) = remove_clsact(index)
    {
        warn!("cannot remove the clsact qdisc of {interface}: {error}");
    }
}

fn put_filter(program: &mut SchedClassifier, target: Target<'_>) -> Result<SchedClassifierLinkId, ProgramError> {
    let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
    program.attach_with_options(target.name, TcAttachType::Ingress, options)
}

/// Replaces the previous daemon's filter, or adds one if it was removed in the meantime.
fn replace_filter(program: &mut SchedClassifier, target: Target<'_>) -> Result<SchedClassifierLinkId, ProgramError> {
    let left = SchedClassifierLink::attached(target.name, TcAttachType::Ingress, PRIORITY, HANDLE, None);
    match program.attach_to_link(left.map_err(TcError::IoError)?) {
        Err(error) if innermost(&error).raw_os_error() == Some(libc::ENOENT) => put_filter(program, target),
        replaced_or_not => replaced_or_not,
    }
}

/// Returns whether an error means that the clsact qdisc already exists.
fn is_there(error: &TcError) -> bool {
    matches!(error, TcError::AlreadyAttached) || innermost(error).raw_os_error() == Some(libc::EEXIST)
}

fn failed(target: Target<'_>, error: &(dyn std::error::Error + 'static)) -> DatapathError {
    attach_error(target, AttachMode::Tc, reason(error))
}

/// Removes the previous daemon's filters in this network namespace, except those of the interfaces in `kept`.
pub(super) fn remove_all_filters(pins: &Pins, kept: &[u32]) {
    for name in pins.link_names() {
        let Some(LinkName::Filter { index, made_qdisc }) = LinkName::parse(&name) else { continue };
        if kept.contains(&index) {
            continue;
        }
        match nix::net::if_::if_indextoname(index) {
            Ok(interface) => remove(index, &interface.to_string_lossy(), made_qdisc),
            Err(error) => debug!("the interface with index {index} is gone with its filter: {error}"),
        }
        pins.remove_link(&name);
    }
}
