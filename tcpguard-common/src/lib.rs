//! Code that tcpguard's BPF programs and its daemon share: packet parsing, the accounting of sources, and the
//! layout of everything stored in BPF maps.
//!
//! The crate is `no_std` and free of side effects, so that every decision of the datapath compiles for the host
//! as well and is tested there.
//!
//! | module | subject |
//! | --- | --- |
//! | [`abi`] | what the daemon and the datapath exchange: names and content of maps |
//! | [`packet`], [`wire`] | parsing a frame into a TCP segment, or the reason why that fails |
//! | [`tracking`] | what is remembered of sources and their handshakes |
//! | [`challenge`], [`checksum`] | answering SYNs, or waiting for their retransmits |
//! | [`address`] | IPv4 and IPv6 addresses and prefixes |
//! | [`atomic`] | words that several CPUs update concurrently |
//! | [`clock`] | jiffies, and the periods used for accounting |
//! | [`hash`] | keyed hashing of sources and connections |
//! | [`siphash`] | a hash that others see |

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod address;
pub mod atomic;
pub mod challenge;
pub mod checksum;
pub mod clock;
pub mod hash;
pub mod packet;
pub mod siphash;
pub mod tracking;
pub mod wire;
