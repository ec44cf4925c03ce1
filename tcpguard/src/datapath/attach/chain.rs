//! Chaining before another XDP program: tcpguard replaces it, and passes packets on to it by a tail call. The guard is
//! attached by netlink rather than by a link, so that the other program keeps running if the daemon crashes or ends.
//! Both programs are pinned.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    maps::{HashMap, Map, MapData, ProgramArray},
    programs::{Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use tcpguard_common::abi::names::{MAX_CHAINED, map};
use tracing::{info, warn};

use super::{AttachMode, Attachment, Hold, Target, attach_error, program_name};
use crate::{
    datapath::{
        Datapath, DatapathError,
        netlink::replace_xdp,
        pins::{LinkName, PinnedObject, Pins},
    },
    fault,
};

/// A program that tcpguard is chained before, and its index in the program array.
#[derive(Debug)]
pub(super) struct Chained {
    other: OwnedFd,
    place: u32,
}

impl Datapath {
    /// Replaces the interface's program, and chains the guard before it.
    pub(super) fn attach_before(&mut self, target: Target<'_>) -> Result<Attachment, DatapathError> {
        let Some((found, mode)) = target.program else {
            return Err(DatapathError::NoInterface(target.name.to_owned()));
        };
        let mode = mode.unwrap_or(AttachMode::Native);
        let refused = |reason: String| DatapathError::NotChained { interface: target.name.to_owned(), reason };
        let pins = self.pins.as_ref().ok_or_else(|| refused("chaining before its program needs pins".to_owned()))?;
        // The attached program is either the previous daemon's guard or the other program itself.
        let (other, present) = match left(pins, target.index, found) {
            Some((other, present)) => (other, present),
            None => {
                let program = program_of(found).map_err(|error| refused(cannot_open(found, &error)))?;
                let again = program.try_clone().map_err(|error| refused(error.to_string()))?;
                (program, again)
            }
        };
        let name = other_name(&other);
        let (other_pin, our_pin) = (LinkName::Chained(target.index), LinkName::Replacement(target.index));
        let guard = self.xdp_packet_program_fd()?;
        // In this order: when the guard is attached, the pin of the program it replaced exists.
        let path = pins.link_path(&other_pin.to_string());
        let is_new = self.pin_program(&other_pin.to_string(), &other)?;
        let place = match self.place_in_chain(target, &path) {
            Ok(place) => place,
            Err(problem) => {
                if is_new {
                    self.unpin(other_pin);
                }
                return Err(problem);
            }
        };
        self.pin_program(&our_pin.next(), &guard)?;
        fault::point("replacing another program");
        if let Err(error) = replace_xdp(target.index, guard.as_fd(), present.as_fd(), mode) {
            self.unpin(our_pin.next());
            if is_new {
                self.forget_chained(target.index, place);
            }
            return Err(match error.raw_os_error() {
                Some(libc::EBUSY) => DatapathError::NotChained {
                    interface: target.name.to_owned(),
                    reason: format!(
                        "the program {name} (id {found}) is held by a bpf_link and cannot be replaced; attach = \"tc\" guards beside it"
                    ),
                },
                _ => attach_error(target, mode, error.to_string()),
            });
        }
        fault::point("another program is replaced");
        if let Some(pins) = &self.pins {
            pins.put_in_force(&our_pin.to_string())?;
        }
        info!("{}: passed packets are handed to {name}", target.name);
        let remark = Some(format!("passed packets are handed to the program {name}"));
        Ok(Attachment { index: target.index, hold: Hold::Chained(Chained { other, place }), mode, remark })
    }

    /// Adds the other program to the program array that the guard's tail calls go to. Returns its index.
    fn place_in_chain(&mut self, target: Target<'_>, other: &Path) -> Result<u32, DatapathError> {
        let taken: Vec<u32> =
            self.chained_interfaces()?.iter().filter_map(Result::ok).map(|(_, place)| place).collect();
        let place = (0..MAX_CHAINED as u32).find(|place| !taken.contains(place));
        let place = place.ok_or_else(|| DatapathError::NotChained {
            interface: target.name.to_owned(),
            reason: format!("more than {MAX_CHAINED} interfaces have programs to chain before"),
        })?;
        let program = Xdp::from_pin(other, XdpAttachType::Interface).map_err(DatapathError::program("chained"))?;
        let program = program.fd().map_err(DatapathError::program("chained"))?.try_clone().map_err(host)?;
        let array = self.ebpf.map_mut(map::CHAINED).ok_or(DatapathError::Missing(map::CHAINED))?;
        let mut array = ProgramArray::try_from(array).map_err(DatapathError::map(map::CHAINED))?;
        array.set(place, &program, 0).map_err(|error| DatapathError::NotChained {
            interface: target.name.to_owned(),
            reason: format!("the kernel refuses tail calls to its program, probably because it supports fragments (xdp.frags): {error}"),
        })?;
        self.chained_interfaces()?
            .insert(target.index, place, 0)
            .map_err(DatapathError::map(map::CHAINED_INTERFACES))?;
        Ok(place)
    }

    fn chained_interfaces(&mut self) -> Result<HashMap<&mut MapData, u32, u32>, DatapathError> {
        let name = map::CHAINED_INTERFACES;
        let map: &mut Map = self.ebpf.map_mut(name).ok_or(DatapathError::Missing(name))?;
        HashMap::try_from(map).map_err(DatapathError::map(name))
    }

    fn xdp_packet_program_fd(&self) -> Result<OwnedFd, DatapathError> {
        self.packet_program_fd()?.try_clone_to_owned().map_err(host)
    }

    /// Pins a program. Returns false if the same program was already pinned.
    fn pin_program(&self, name: &str, program: &OwnedFd) -> Result<bool, DatapathError> {
        let Some(pins) = &self.pins else { return Ok(true) };
        Ok(pins.add_program(name, program.as_fd())?)
    }

    /// Detaches the guard and reattaches the other program.
    pub(super) fn put_back(&mut self, index: u32, chained: Chained, mode: AttachMode) -> Result<(), DatapathError> {
        let guard = self.xdp_packet_program_fd()?;
        if let Some(pins) = &self.pins {
            give_back(pins, index, &chained.other, &[guard], mode);
        }
        self.free_place(index, chained.place);
        Ok(())
    }

    fn free_place(&mut self, index: u32, place: u32) {
        if let Ok(mut interfaces) = self.chained_interfaces()
            && let Err(error) = interfaces.remove(&index)
        {
            warn!("cannot free the place {place} in the program array: {error}");
        }
    }

    fn forget_chained(&mut self, index: u32, place: u32) {
        if let Some(pins) = &self.pins {
            forget(pins, index);
        }
        self.free_place(index, place);
    }

    /// Reattaches the program that the previous daemon was chained before, if there is one.
    pub(super) fn put_back_left(&mut self, target: Target<'_>) {
        let Some((found, mode)) = target.program else { return };
        let Some(pins) = &self.pins else { return };
        if let Some((other, guard)) = left(pins, target.index, found) {
            give_back(pins, target.index, &other, &[guard], mode.unwrap_or(AttachMode::Native));
        }
    }
}

/// Returns tcpguard's programs that may be attached in place of another: the current one, and one that was about to be
/// attached.
fn guards(pins: &Pins, index: u32) -> Vec<PinnedObject> {
    let ours = LinkName::Replacement(index);
    [ours.to_string(), ours.next()].iter().filter_map(|name| pins.program(name)).collect()
}

fn forget(pins: &Pins, index: u32) {
    let ours = LinkName::Replacement(index);
    for name in [ours.next(), ours.to_string(), LinkName::Chained(index).to_string()] {
        pins.remove_link(&name);
    }
}

/// Returns the other program and the previous daemon's guard, if the latter is attached as program `found`. Otherwise
/// the pins are stale and removed.
fn left(pins: &Pins, index: u32, found: u32) -> Option<(OwnedFd, OwnedFd)> {
    let guard = guards(pins, index).into_iter().find(|guard| guard.number("prog_id") == Some(found));
    match (pins.program(&LinkName::Chained(index).to_string()), guard) {
        (Some(other), Some(guard)) => Some((other.into_fd(), guard.into_fd())),
        _ => {
            forget(pins, index);
            None
        }
    }
}

/// Replaces whichever of `guards` is attached to an interface with `other`.
fn give_back(pins: &Pins, index: u32, other: &OwnedFd, guards: &[OwnedFd], mode: AttachMode) {
    fault::point("reattaching another program");
    // The mode may be unknown: both are tried.
    let modes = [mode, AttachMode::Native, AttachMode::Generic];
    let ways = guards.iter().flat_map(|guard| modes.map(|mode| (guard, mode)));
    let mut problem = None;
    for (guard, mode) in ways {
        match replace_xdp(index, other.as_fd(), guard.as_fd(), mode) {
            Ok(()) => {
                info!("the program {} is attached again", other_name(other));
                return forget(pins, index);
            }
            Err(error) => problem = Some(error),
        }
    }
    if nix::net::if_::if_indextoname(index).is_err() {
        // The interface is gone, and its programs with it.
        return forget(pins, index);
    }
    if let Some(problem) = problem {
        let name = other_name(other);
        warn!(
            "cannot reattach the program {name} to the interface with index {index}: {problem}; `tcpguard detach` tries again"
        );
    }
}

/// Reattaches every program that the previous daemon was chained before, except on the interfaces in `kept`.
pub(super) fn put_back_all(pins: &Pins, kept: &[u32]) {
    for name in pins.link_names() {
        let Some(LinkName::Chained(index)) = LinkName::parse(&name) else { continue };
        if kept.contains(&index) {
            continue;
        }
        let Some(other) = pins.program(&name).map(PinnedObject::into_fd) else { continue };
        let guards: Vec<OwnedFd> = guards(pins, index).into_iter().map(PinnedObject::into_fd).collect();
        give_back(pins, index, &other, &guards, AttachMode::Native);
    }
}

fn program_of(id: u32) -> Result<OwnedFd, io::Error> {
    let program = loaded_programs().find_map(|program| match program {
        Ok(program) if program.id() == id => Some(program.fd().map_err(io::Error::other)),
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    program.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?.as_fd().try_clone_to_owned()
}

fn cannot_open(id: u32, error: &io::Error) -> String {
    format!(
        "its program (id {id}) cannot be opened, which needs CAP_SYS_ADMIN: {error}; docs/coexistence.md describes how to grant it to the service"
    )
}

fn other_name(program: &OwnedFd) -> String {
    let object = program.try_clone().and_then(PinnedObject::of).ok();
    let id = object.and_then(|object| object.number("prog_id"));
    id.and_then(program_name).or_else(|| id.map(|id| format!("with the id {id}"))).unwrap_or_default()
}

fn host(source: io::Error) -> DatapathError {
    DatapathError::Host { what: "a program's descriptor", source }
}
