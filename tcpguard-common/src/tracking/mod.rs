//! What is remembered of sources and of their handshakes.
//!
//! | module | subject |
//! | --- | --- |
//! | [`source`] | the entry of the source table |
//! | [`half_open`], [`handshake`] | half-open handshakes: how many per source, and which |
//! | [`reply`] | SYN-ACKs sent for other hosts, and their acknowledgement |
//! | [`sketch`], [`admission`] | which sources get an entry in the source table |
//! | [`filter`] | whether a source may have an entry, without a table lookup |
//! | [`bucket`] | the rate limit of a source |
//! | [`prefix`] | the state kept for a network |
//! | [`distinct`] | the number of distinct sources |

pub mod admission;
pub mod bucket;
pub mod distinct;
pub mod filter;
pub mod half_open;
pub mod handshake;
pub mod prefix;
pub mod reply;
pub mod sketch;
pub mod source;
