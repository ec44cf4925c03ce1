//! Putting the program on an interface, and taking it off again.
//!
//! | module | where | held by |
//! | --- | --- | --- |
//! | `xdp` | XDP | a `bpf_link` |
//! | `chain` | XDP, before a program that was there | the interface itself |
//! | `tc` | ingress of traffic control | a `bpf_link` (TCX), or a filter of a clsact qdisc |

mod chain;
mod tc;
mod xdp;

use aya::programs::{links::FdLink, loaded_programs, xdp::XdpMode as KernelMode};
use tracing::warn;

use super::{Datapath, DatapathError};
use crate::config::{Coexist, Hook, XdpMode};
use chain::Chained;
pub(super) use chain::put_back_all;
use tc::Filter;
pub(super) use tc::remove_all_filters;

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// The driver.
    Native,
    /// The kernel's generic code, later and dearer.
    Generic,
    /// Traffic control, later still.
    Tc,
}

impl AttachMode {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }

    /// In a message.
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

/// The program on one interface.
#[derive(Debug)]
pub struct Attachment {
    index: u32,
    hold: Hold,
    /// Who runs the program.
    pub mode: AttachMode,
    /// What is to be said of it: why it is not run natively, or whom it hands on to.
    pub remark: Option<String>,
}

#[derive(Debug)]
enum Hold {
    /// Let go when this is dropped, unless it is pinned.
    Link(FdLink),
    Chained(Chained),
    Filter(Filter),
}

impl Attachment {
    /// Whether another program is handed what passes.
    pub(super) const fn is_chained(&self) -> bool {
        matches!(self.hold, Hold::Chained(_))
    }

    /// Whether it hangs on a clsact qdisc.
    pub(super) const fn is_filter(&self) -> bool {
        matches!(self.hold, Hold::Filter(_))
    }

    /// The index of its interface.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// The name of its pin, where it has one.
    pub(super) fn pin_name(&self) -> Option<String> {
        match (&self.hold, self.mode) {
            (Hold::Link(_), AttachMode::Tc) => Some(tc::pin_name(self.index)),
            (Hold::Link(_), _) => Some(xdp::pin_name(self.index)),
            (Hold::Chained(_) | Hold::Filter(_), _) => None,
        }
    }
}

impl Datapath {
    /// Puts the program on an interface. One that a daemon before this one has left there is replaced: not one frame
    /// comes by neither of them.
    ///
    /// # Errors
    /// Where another program is there, or the kernel refuses the mode asked for.
    pub fn attach(&mut self, target: Target<'_>, mode: XdpMode, coexist: Coexist) -> Result<Attachment, DatapathError> {
        match self.hook {
            Hook::Tc => {
                self.unpin(&xdp::pin_name(target.index));
                self.put_back_left(target);
                self.attach_tc(target)
            }
            Hook::Xdp => {
                self.unpin(&tc::pin_name(target.index));
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

    fn unpin(&self, name: &str) {
        if let Some(pins) = &self.pins {
            pins.remove_link(name);
        }
    }

    /// Takes off an attachment whose interface is gone, or is not to be guarded any more.
    pub fn let_go(&mut self, attachment: Attachment) {
        if let (Some(name), Some(pins)) = (attachment.pin_name(), &self.pins) {
            pins.remove_link(&name);
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
