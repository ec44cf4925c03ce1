//! What tcpguard's BPF programs and its daemon have in common: how packets are read, how sources
//! are accounted, and the layout of everything that stands in a BPF map.
//!
//! The crate is `no_std` and free of side effects, so that every decision the datapath takes is
//! compiled for the host as well and tested there.
//!
//! | module | subject |
//! | --- | --- |
//! | [`packet`] | from bytes to a TCP segment, or the reason why not |
//! | [`address`] | addresses and prefixes, IPv4 and IPv6 alike |
//! | [`atomic`] | words that several CPUs update at once |
//! | [`clock`] | jiffies, and the periods the accounting is built on |
//! | [`hash`] | keyed hashing of sources and connections |
//! | [`sketch`], [`admission`] | who earns an entry in the source table |
//! | [`source`], [`half_open`], [`handshake`] | what is remembered of one source |
//! | [`prefix`] | what is remembered of one network |
//! | [`distinct`] | how many sources there are |
//! | [`filter`] | whether a source may have an entry, without looking it up |
//! | [`control`] | what the datapath may do at this moment |
//! | [`rule`], [`bucket`], [`local`], [`listening`] | what the stages of a SYN ask |
//! | [`challenge`], [`checksum`] | answering SYNs with cookies, and waiting for them to come again |
//! | [`counters`], [`drops`] | what is counted, and under what name |
//! | [`event`] | what the datapath tells the daemon at once |
//! | [`instance`] | what one daemon leaves to the next |
//! | [`layout`] | names and sizes of maps, programs and settings |

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod admission;
pub mod atomic;
pub mod bucket;
pub mod challenge;
pub mod checksum;
pub mod clock;
pub mod control;
pub mod counters;
pub mod distinct;
pub mod drops;
pub mod event;
pub mod filter;
pub mod half_open;
pub mod handshake;
pub mod hash;
pub mod instance;
pub mod layout;
pub mod listening;
pub mod local;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod prefix;
pub mod rule;
pub mod sketch;
pub mod source;
