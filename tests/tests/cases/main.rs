//! The lab tests, one module for each subject. They need root; `cargo xtask lab [FILTER…]` builds what they run and
//! installs what they need. `tests/README.md` says how to write one.

mod answers;
mod benign;
mod bypasses;
mod coexistence;
mod commands;
mod cookies;
mod counting;
mod dashboard;
mod disabling;
mod distance;
mod doctor;
mod enforcement;
mod evidence;
mod explain;
mod faults;
mod hostile;
mod instruction_counts;
mod killpoints;
mod lifecycle;
mod list_size;
mod lists;
mod notify;
mod packet_tables;
mod patient;
mod prometheus;
mod reachability;
mod refusals;
mod reload;
mod restart;
mod spoofed;
mod ssh;
mod strays;
mod terminal;
mod tracking;
mod web;
