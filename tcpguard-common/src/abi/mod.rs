//! Everything that the daemon and the datapath exchange: the names and the content of maps, variables and requests.
//!
//! | module | subject |
//! | --- | --- |
//! | [`names`] | names of programs, maps and variables |
//! | [`counters`] | the table of counters, drop reasons and stages |
//! | [`lease`] | what the datapath is allowed to do, and until when |
//! | [`event`], [`request`] | messages to the daemon, and from it |
//! | [`rule`], [`outline`] | the allow, deny and block entries of a network; which addresses may have one |
//! | [`place`] | ports of this host and of the networks that it protects |
//! | [`port`], [`listening`], [`local_addresses`] | ports, their listeners, and the host's addresses |
//! | [`syn_headers`], [`signature`] | what the headers of SYNs have in common, and drops by it |
//! | [`guarded`] | interfaces |
//! | [`by_cpu`] | arrays with a row for each CPU |
//! | [`socket_layout`], [`packet_layout`] | offsets of kernel structures |
//! | [`watch`] | waking the daemon |
//! | [`takeover`] | the state carried over from one daemon to the next |

pub mod by_cpu;
pub mod counters;
pub mod event;
pub mod guarded;
pub mod lease;
pub mod listening;
pub mod local_addresses;
pub mod names;
pub mod outline;
pub mod packet_layout;
pub mod place;
#[cfg(feature = "user")]
mod pod;
pub mod port;
pub mod request;
pub mod rule;
pub mod signature;
pub mod socket_layout;
pub mod syn_headers;
pub mod takeover;
pub mod watch;
