//! Code that tcpguard's BPF programs and its daemon share: packet parsing, the accounting of sources, and the
//! layout of everything stored in BPF maps.
//!
//! The crate is `no_std` and free of side effects, so that every decision of the datapath compiles for the host
//! as well and is tested there.
//!
//! | module | subject |
//! | --- | --- |
//! | [`packet`] | parsing a frame into a TCP segment, or the reason why that fails |
//! | [`address`] | IPv4 and IPv6 addresses and prefixes |
//! | [`atomic`] | words that several CPUs update concurrently |
//! | [`clock`] | jiffies, and the periods used for accounting |
//! | [`hash`] | keyed hashing of sources and connections |
//! | [`sketch`], [`admission`] | which sources get an entry in the source table |
//! | [`source`], [`half_open`], [`handshake`] | the state kept for a source |
//! | [`prefix`] | the state kept for a network |
//! | [`distinct`] | the number of distinct sources |
//! | [`filter`] | whether a source may have an entry, without a table lookup |
//! | [`control`] | the lease: what the datapath is allowed to do |
//! | [`rule`], [`bucket`], [`local`], [`listening`] | what a SYN is checked against |
//! | [`challenge`], [`checksum`] | answering SYNs with cookies, or waiting for their retransmits |
//! | [`counters`], [`drops`] | counters and drop reasons, and their names |
//! | [`event`] | events that the datapath reports to the daemon at once |
//! | [`instance`] | the state carried over from one daemon to the next |
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
