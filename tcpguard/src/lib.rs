//! tcpguard watches TCP handshakes on a Linux host and stops SYN floods. This library is the daemon and its commands;
//! [`run`] is the daemon's entry point.
//!
//! | module | subject |
//! | --- | --- |
//! | `daemon` | the daemon from its start to its end; one tick |
//! | [`config`] | the configuration |
//! | [`datapath`] | the BPF programs and their maps |
//! | [`interfaces`] | the interfaces the programs are attached to |
//! | [`kernel`] | the kernel's own view of handshakes |
//! | [`monitor`] | observing the datapath and the kernel, with each tick |
//! | [`detect`] | judging observations |
//! | [`response`] | acting on judgements, and undoing it: blocks, challenges, kernel settings |
//! | [`lists`], [`network`] | the allow and deny lists, and the networks on them |
//! | [`events`], [`store`] | the event log, and what survives restarts |
//! | [`time`] | datapath time, wall-clock time, and time across restarts |
//! | [`history`], [`cost`], [`metrics`] | the last fifteen minutes, the cost of tcpguard itself, metrics for Prometheus |
//! | [`explain`], [`doctor`], [`notify`] | verdicts explained, obstacles on the host, notifications of attacks |
//! | [`api`], [`cli`] | the HTTP API and the commands |
//! | `netlink`, `service_manager`, `memory`, `fault`, `record` | sockets to the kernel; systemd; memory returned to the kernel; points at which tests kill the daemon; recordings for simulations |

pub mod api;
pub mod cli;
pub mod config;
pub mod cost;
mod daemon;
pub mod datapath;
pub mod detect;
pub mod doctor;
pub mod events;
pub mod explain;
mod fault;
#[cfg(test)]
mod fuzz;
pub mod history;
pub mod interfaces;
pub mod kernel;
pub mod lists;
mod memory;
pub mod metrics;
pub mod monitor;
mod netlink;
pub mod network;
pub mod notify;
mod record;
#[cfg(test)]
mod reference;
pub mod response;
mod service_manager;
pub mod store;
pub mod time;

pub use daemon::{ConfigSource, RunError, RunOptions, TickReport, run};

/// Identifies the sources that this library and its BPF programs were built from (`xtask::sources`). The lab compares it
/// with the sources as they are, so that no test runs against a stale build.
pub const BUILD_ID: &str = env!("TCPGUARD_BUILD_ID");
