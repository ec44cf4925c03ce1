//! Attaching the guard to interfaces, and detaching it.
//!
//! | module | hook | held by |
//! | --- | --- | --- |
//! | `xdp` | XDP | a `bpf_link` |
//! | `chain` | XDP, before another program | the interface itself |
//! | `tc` | ingress of traffic control | a `bpf_link` (TCX), or a filter of a clsact qdisc |

mod chain;
mod tc;
mod xdp;

use aya::programs::{links::FdLink, loaded_programs, xdp::XdpMode as KernelMode};
use tracing::warn;

use super::{
    Datapath, DatapathError,
    pins::{LinkName, Pins},
};
use crate::config::{Coexist, Hook, XdpMode};
use chain::Chained;
use tc::Filter;

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// XDP in the driver.
    Native,
    /// Generic XDP in the kernel's network stack, which runs later and costs more per packet.
    Generic,
    /// The ingress of traffic control, which runs later still.
    Tc,
}

impl AttachMode {
    /// Returns the short name used in the API and in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }

    /// Returns the description used in log messages.
    pub const fn described(self) -> &'static str {
        match self {
            Self::Native => "native XDP",
            Self::Generic => "generic XDP",
            Self::Tc => "traffic control",
        }
    }

    const fn kernel_mode(self) -> KernelMode {
        match self {
            Self::Native | Self::Tc => KernelMode::Driver,
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

/// An interface to attach to, as reported by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The name of the interface.
    pub name: &'a str,
    /// The index of the interface.
    pub index: u32,
    /// The attached XDP program: its id, and its mode if known.
    pub program: Option<(u32, Option<AttachMode>)>,
}

/// The attachment of the guard to one interface.
#[derive(Debug)]
pub struct Attachment {
    index: u32,
    hold: Hold,
    /// How the program is attached.
    pub mode: AttachMode,
    /// A remark for the operator: why it is not native, or which program it is chained before.
    pub remark: Option<String>,
}

#[derive(Debug)]
enum Hold {
    /// Detached when this is dropped, unless it is pinned.
    Link(FdLink),
    Chained(Chained),
    Filter(Filter),
}

impl Attachment {
    /// Returns whether the guard is chained before another program.
    pub(super) const fn is_chained(&self) -> bool {
        matches!(self.hold, Hold::Chained(_))
    }

    /// Returns whether it is a filter of a clsact qdisc.
    pub(super) const fn is_filter(&self) -> bool {
        matches!(self.hold, Hold::Filter(_))
    }

    /// Returns the index of the interface.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Returns the name of its pin, if it is held by a link.
    pub(super) fn pin_name(&self) -> Option<LinkName> {
        match (&self.hold, self.mode) {
            (Hold::Link(_), AttachMode::Tc) => Some(LinkName::Tcx(self.index)),
            (Hold::Link(_), _) => Some(LinkName::Xdp(self.index)),
            (Hold::Chained(_) | Hold::Filter(_), _) => None,
        }
    }
}

impl Datapath {
    /// Attaches the guard to an interface. The previous daemon's program is replaced atomically, so that no frame
    /// passes unseen.
    ///
    /// # Errors
    /// Returns an error if another program is attached, or the kernel refuses the mode.
    pub fn attach(&mut self, target: Target<'_>, mode: XdpMode, coexist: Coexist) -> Result<Attachment, DatapathError> {
        match self.hook {
            Hook::Tc => {
                self.unpin(LinkName::Xdp(target.index));
                self.put_back_left(target);
                self.attach_tc(target)
            }
            Hook::Xdp => {
                self.unpin(LinkName::Tcx(target.index));
                self.remove_left_filter(target);
                self.attach_xdp(target, mode, coexist)
            }
        }
    }

    fn attach_xdp(&mut self, target: Target<'_>, mode: XdpMode, coexist: Coexist) -> Result<Attachment, DatapathError> {
        if let Some(attachment) = self.take_over_link(target, mode)? {
            return Ok(attachment);
        }
        match target.program {
            Some(_) if coexist == Coexist::Chain => self.attach_before(target),
            Some((id, _)) => {
                self.put_back_left(target);
                Err(occupied(target.name, id))
            }
            None => match mode {
                XdpMode::Native => self.attach_in(target, AttachMode::Native),
                XdpMode::Generic => self.attach_in(target, AttachMode::Generic),
                XdpMode::Auto => self.attach_natively_or_else(target),
            },
        }
    }

    fn unpin(&self, name: impl ToString) {
        if let Some(pins) = &self.pins {
            pins.remove_link(&name.to_string());
        }
    }

    /// Detaches from an interface that is gone, or is no longer to be guarded.
    pub fn let_go(&mut self, attachment: Attachment) {
        if let (Some(name), Some(pins)) = (attachment.pin_name(), &self.pins) {
            pins.remove_link(&name.to_string());
        }
        let index = attachment.index;
        match attachment.hold {
            Hold::Link(link) => drop(link),
            Hold::Chained(chained) => {
                if let Err(problem) = self.put_back(index, chained, attachment.mode) {
                    warn!("{problem}");
                }
            }
            Hold::Filter(filter) => self.remove_filter(index, filter),
        }
    }
}

/// Restores every interface of this network namespace whose program tcpguard replaced, or to which it added a filter.
pub(super) fn restore_interfaces(pins: &Pins) {
    restore_other_interfaces(pins, &[]);
}

/// The same, except for the interfaces of `attachments`.
pub(super) fn restore_other_interfaces(pins: &Pins, attachments: &[&Attachment]) {
    let of = |is_so: fn(&Attachment) -> bool| -> Vec<u32> {
        attachments.iter().filter(|attachment| is_so(attachment)).map(|attachment| attachment.index()).collect()
    };
    chain::put_back_all(pins, &of(Attachment::is_chained));
    tc::remove_all_filters(pins, &of(Attachment::is_filter));
}

fn attach_error(target: Target<'_>, mode: AttachMode, reason: String) -> DatapathError {
    DatapathError::Attach { interface: target.name.to_owned(), mode: mode.name(), reason }
}

/// Returns the name of a loaded program, truncated to 15 bytes by the kernel, or `None` if it is unknown.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// Returns the error that names the program with this id on `interface`.
pub fn occupied(interface: &str, id: u32) -> DatapathError {
    DatapathError::Occupied { interface: interface.to_owned(), program: program_name(id).unwrap_or_default(), id }
}
