//! What is remembered of sources and of their handshakes.
//!
//! | module | subject |
//! | --- | --- |
//! | [`source`] | the entry of the source table |
//! | [`source_table`] | where the entry of a source is |
//! | [`half_open`], [`handshake`] | half-open handshakes: how many per source, and which |
//! | [`reply`] | SYN-ACKs sent for other hosts, and their acknowledgement |
//! | [`sketch`], [`admission`] | which sources get an entry in the source table |
//! | [`bucket`] | the rate limit of a source |
//! | [`prefix`] | the state kept for a network |
//! | [`distinct`] | the number of distinct sources |

pub mod admission;
pub mod bucket;
pub mod distinct;
pub mod half_open;
pub mod handshake;
pub mod prefix;
pub mod reply;
pub mod sketch;
pub mod source;
pub mod source_table;
