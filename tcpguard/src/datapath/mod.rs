//! The daemon's interface to the BPF programs and their maps.
//!
//! [`Datapath::load`] loads the object embedded in this binary, and [`Datapath::attach`] attaches it to an
//! interface. Each field of [`Maps`] is the typed owner of one map.

mod attach;
mod batch;
mod btf;
mod detach;
mod embedded;
mod environment;
mod error;
mod features;
mod loader;
mod log;
mod map_memory;
pub mod maps;
mod netlink;
mod network_namespace;
mod options;
mod pins;
mod readiness;
mod run_time;
mod twin;
mod window;

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{Program, TestRun, TestRunOptions, TestRunResult, Xdp, links::FdLink},
};
use tcpguard_common::{
    abi::{
        names::{map, program},
        request::{BlockRequest, PrimeRequest},
        takeover::Instance,
    },
    address::Address,
    clock::Clock,
};
use zerocopy::IntoBytes;

pub use attach::{AttachMode, Attachment, Target, occupied, program_name};
pub use detach::{PinScope, remove_pins};
pub use error::DatapathError;
pub use features::{Feature, Features};
pub use map_memory::{MapMemory, MapSize};
pub use maps::LiveState;
pub use maps::Maps;
pub use network_namespace::network_namespace_cookie;
pub use options::DatapathOptions;
pub use pins::{PinError, Pins, ensure_bpffs};
pub use run_time::{ProgramCost, VerifierCost};
pub use twin::Twin;

use crate::{config::Hook, fault};

/// `XDP_PASS` of the kernel's `enum xdp_action`.
const XDP_PASS: u32 = 2;

/// Converts a verdict of traffic control to the equivalent XDP verdict.
const fn as_xdp(verdict: u32) -> u32 {
    const TC_ACT_SHOT: u32 = 2;
    const TC_ACT_REDIRECT: u32 = 7;
    const XDP_DROP: u32 = 1;
    const XDP_TX: u32 = 3;
    match verdict {
        TC_ACT_SHOT => XDP_DROP,
        TC_ACT_REDIRECT => XDP_TX,
        _ => XDP_PASS,
    }
}

/// The loaded programs. Dropping this unloads everything that is not pinned.
pub struct Datapath {
    ebpf: Ebpf,
    /// The hook it is attached to.
    hook: Hook,
    /// The attachments to tracepoints.
    tracepoints: Vec<Tracepoint>,
    /// Which datapath's tracepoints count.
    instance: Array<MapData, Instance>,
    generation: u64,
    /// Its tracepoints count ([`Datapath::take_effect`]).
    is_in_effect: bool,
    /// The pins that outlive the daemon; `None` if nothing is pinned.
    pins: Option<Pins>,
    /// Whether dropping this removes the pins, and thereby the attachments.
    detaches_when_dropped: bool,
    /// What was taken over from the previous daemon.
    pub takeover: Takeover,
    /// The memory of the maps.
    pub memory: MapMemory,
    /// Why packets that the kernel sends cannot be read, if they cannot.
    sent_problem: Option<String>,
    /// The optional features of the kernel.
    pub features: Features,
    /// The conversion of jiffies to the datapath's units of time.
    pub clock: Clock,
    /// Jiffies per second (CONFIG_HZ).
    pub ticks_per_second: u32,
    /// The secret key of the hash functions.
    pub hash_key: u64,
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if self.detaches_when_dropped
            && let Some(pins) = self.pins.take()
        {
            attach::restore_interfaces(&pins);
            pins.remove_all();
        }
    }
}

/// An attachment to a tracepoint.
struct Tracepoint {
    name: &'static str,
    _link: FdLink,
}

/// What a datapath took over from the previous daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Nothing: it starts with empty maps.
    #[default]
    Nothing,
    /// The pinned maps.
    Maps {
        /// The content that could not be taken over.
        dropped: Vec<&'static str>,
    },
}

impl Datapath {
    /// Has attachments and pins stay when this is dropped, also if the daemon crashes: the next start continues with them.
    pub const fn keep_when_dropped(&mut self) {
        self.detaches_when_dropped = false;
    }

    /// Has attachments and pins be removed when this is dropped.
    pub const fn detach_when_dropped(&mut self) {
        self.detaches_when_dropped = true;
    }

    /// Returns whether attachments and pins are removed when this is dropped: true from loading on, unless there was a
    /// previous daemon's datapath to take over.
    pub const fn detaches_when_dropped(&self) -> bool {
        self.detaches_when_dropped
    }

    /// Makes this datapath's tracepoints the ones that count, and detaches those of the previous daemon.
    ///
    /// # Errors
    /// Returns an error if the instance map cannot be read or written, or a pin cannot be renamed.
    pub fn take_effect(&mut self) -> Result<(), DatapathError> {
        fault::point("taking effect");
        let instance = pins::read_instance(&self.instance)
            .map_err(|source| DatapathError::Host { what: "which datapath instance owns the pinned maps", source })?;
        let ours = Instance { generation: self.generation, ..instance };
        self.instance.set(0, ours, 0).map_err(DatapathError::map(map::INSTANCE))?;
        self.is_in_effect = true;
        fault::point("taken effect");
        if let Some(pins) = &self.pins {
            for tracepoint in &self.tracepoints {
                pins.put_in_force(tracepoint.name)?;
            }
        }
        Ok(())
    }

    /// Detaches the previous daemon's attachments that are not among `attachments`.
    pub fn keep_only(&self, attachments: &[&Attachment]) {
        let Some(pins) = &self.pins else { return };
        let attached = attachments.iter().filter_map(|attachment| attachment.pin_name()).map(|name| name.to_string());
        attach::restore_other_interfaces(pins, attachments);
        pins.keep_only_maps_of(self.generation);
        pins.keep_only_links(&attached.chain(self.tracepoints.iter().map(|at| at.name.to_owned())).collect::<Vec<_>>());
    }

    /// Runs one frame through the guard with `BPF_PROG_TEST_RUN`, and returns the XDP verdict.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program.
    pub fn test_run(&self, frame: &[u8]) -> Result<u32, DatapathError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = self.run_packet_program(options)?;
        Ok(result.return_value)
    }

    /// Returns the current datapath time in jiffies.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program that reads the clock.
    pub fn jiffies(&self) -> Result<u64, DatapathError> {
        /// The shortest frame that the kernel runs an XDP program on.
        const FRAME: [u8; 14] = [0; 14];
        let mut answer = [0; FRAME.len()];
        let options = TestRunOptions { data_in: Some(&FRAME), data_out: Some(&mut answer), ..TestRunOptions::new() };
        self.xdp(program::CLOCK)?.test_run(options).map_err(DatapathError::program(program::CLOCK))?;
        let mut jiffies = [0; 8];
        jiffies.copy_from_slice(&answer[..8]);
        Ok(u64::from_ne_bytes(jiffies))
    }

    /// Blocks `source` until `until`, in jiffies; 0 lifts the block.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program, or the source table has no room.
    pub fn block(&self, source: Address, until: u64) -> Result<(), DatapathError> {
        let order = BlockRequest::new(source, until);
        let options = TestRunOptions { data_in: Some(order.as_bytes()), ..TestRunOptions::new() };
        let result = self.xdp(program::BLOCK_SOURCE)?.test_run(options);
        match result.map_err(DatapathError::program(program::BLOCK_SOURCE))?.return_value {
            XDP_PASS => Ok(()),
            _ => Err(DatapathError::NoRoom(source)),
        }
    }

    /// Makes the listener at this address and port accept cookies for the next two minutes. Returns false if there is
    /// no listener, or it has no room for another connection. If several listeners share the port, each `turn` selects
    /// another one; the readiness is shared by all of them.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program.
    pub fn prime(&self, address: IpAddr, port: u16, turn: u16) -> Result<bool, DatapathError> {
        let order = PrimeRequest::new(address, port, turn);
        let options = TestRunOptions { data_in: Some(order.as_bytes()), ..TestRunOptions::new() };
        let result = self.xdp(program::PRIME_LISTENER)?.test_run(options);
        Ok(result.map_err(DatapathError::program(program::PRIME_LISTENER))?.return_value == XDP_PASS)
    }

    /// Runs the guard with `options`. The verdict is an XDP verdict at either hook.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program.
    pub fn run_packet_program(&self, options: TestRunOptions<'_>) -> Result<TestRunResult, DatapathError> {
        let failed = DatapathError::program(program::PACKET);
        match self.ebpf.program(program::PACKET) {
            Some(Program::Xdp(guard)) => guard.test_run(options).map_err(failed),
            Some(Program::SchedClassifier(guard)) => {
                // Converted so that callers need not distinguish the hooks.
                let result = guard.test_run(options).map_err(failed)?;
                Ok(TestRunResult { return_value: as_xdp(result.return_value), ..result })
            }
            _ => Err(DatapathError::Missing(program::PACKET)),
        }
    }

    fn packet_program_fd(&self) -> Result<BorrowedFd<'_>, DatapathError> {
        let program = self.ebpf.program(program::PACKET).ok_or(DatapathError::Missing(program::PACKET))?;
        program.fd().map(AsFd::as_fd).map_err(DatapathError::program(program::PACKET))
    }

    /// Returns the guard program at XDP, for callers that run it themselves.
    ///
    /// # Errors
    /// Returns an error if the object has no such program, or was compiled for traffic control.
    pub fn guard(&self) -> Result<&Xdp, DatapathError> {
        self.xdp(program::PACKET)
    }

    fn xdp(&self, name: &'static str) -> Result<&Xdp, DatapathError> {
        let program = self.ebpf.program(name).ok_or(DatapathError::Missing(name))?;
        program.try_into().map_err(DatapathError::program(name))
    }

    fn xdp_mut(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        let program = self.ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
        program.try_into().map_err(DatapathError::program(name))
    }
}
