//! The stages of the pipeline. Each checks one property of a segment and returns a verdict early (`Err`), or lets the
//! segment continue. Their order is in [`crate::pipeline`].
//!
//! | module | stages |
//! | --- | --- |
//! | [`header`] | parsing, invalid flags, port 0, impossible sources, SYNs with data |
//! | [`lists`] | allow, deny and block entries of networks |
//! | [`signature`] | SYNs that look like those of the flood in progress |
//! | [`destination`] | SYNs that are not judged |
//! | [`limits`] | blocks and rate limits of sources |
//! | [`challenge`] | challenges of unproven sources |
//! | [`safe_reset`] | resets by which clients answer a challenge |
//! | [`handshake`] | retransmits |
//! | [`stray`] | segments that belong to no connection |

mod challenge;
mod destination;
mod handshake;
mod header;
mod limits;
mod lists;
mod safe_reset;
mod signature;
mod stray;

pub use challenge::{hold_back, of_new as challenge_of_new, of_tracked as challenge_of_tracked};
pub use destination::destination;
pub use handshake::retransmit;
pub use header::{impossible_source, invalid_flags, own_source, parse, payload, port_zero};
pub use limits::{blocked_prefix, repeat_limit, source_limits};
pub use lists::lists;
pub use safe_reset::returned_reset;
pub use signature::signature;
pub use stray::filter as stray_filter;
