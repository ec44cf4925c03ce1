//! Removing what a daemon that no longer runs has left: attachments and pins.

use std::path::Path;

use super::{
    attach::restore_interfaces,
    pins::{PinError, for_each_unused},
};

/// What [`remove_pins`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinScope {
    /// The pins of the current network namespace.
    ThisNamespace,
    /// The pins of every network namespace.
    EveryNamespace,
}

/// Removes the pins under `root` that no running daemon holds, and thereby the attachments. Returns the number of network
/// namespaces they belonged to.
///
/// # Errors
/// Returns an error if a daemon holds pins or a folder cannot be processed; the other folders are removed nevertheless.
pub fn remove_pins(root: &Path, scope: PinScope) -> Result<usize, PinError> {
    let (mut removed, mut problem) = (0, None);
    for_each_unused(root, scope == PinScope::EveryNamespace, |unused| match unused {
        Ok(unused) if !unused.is_ours && unused.needs_restoring() => {
            problem = Some(PinError::Elsewhere(unused.path().to_owned()));
        }
        Ok(unused) => {
            if unused.is_ours {
                restore_interfaces(&unused.pins);
            }
            unused.pins.remove_all();
            removed += 1;
        }
        Err(error) => problem = Some(error),
    })?;
    problem.map_or(Ok(removed), Err)
}
