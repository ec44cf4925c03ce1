//! The BPF programs and their maps, from the daemon's side.
//!
//! [`Datapath::load`] loads the object that is part of this binary; [`Datapath::attach`] puts it on an
//! interface; the fields of [`Maps`] are the typed owners of each map, taken once.

mod attach;
mod batch;
mod btf;
mod error;
mod loader;
mod log;
pub mod maps;
mod netlink;
mod network_namespace;
mod pins;
mod readiness;
mod run_time;
mod twin;

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
    address::Address,
    challenge::PrimeOrder,
    clock::Clock,
    event::BlockOrder,
    instance::Instance,
    layout::{map, program},
};
use zerocopy::IntoBytes;

pub use attach::{AttachMode, Attachment, Target, occupied, program_name};
pub use batch::{BatchReader, Progress};
pub use error::DatapathError;
pub use loader::{DatapathOptions, Feature, Features};
pub use maps::Maps;
pub use network_namespace::network_namespace_cookie;
pub use pins::{PinError, Pins, Scope as PinScope, remove as remove_pins};
pub use run_time::ProgramCost;
pub use twin::{LiveState, Twin};

use crate::{
    config::{Hook, OnExit},
    fault,
};

/// The kernel's verdict of a frame that passes.
const XDP_PASS: u32 = 2;

/// The XDP verdict that does the same as a verdict of traffic control.
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

/// The loaded programs. They leave the kernel when this is dropped, but for what is pinned.
pub struct Datapath {
    ebpf: Ebpf,
    /// Where it is attached.
    hook: Hook,
    /// Its attachments to tracepoints.
    tracepoints: Vec<Tracepoint>,
    /// Whose tracepoints count.
    instance: Array<MapData, Instance>,
    generation: u64,
    /// What outlives the daemon; `None` where nothing can.
    pins: Option<Pins>,
    /// What becomes of that when this is dropped.
    pub ending: OnExit,
    /// What it has from a daemon before this one.
    pub inheritance: Inheritance,
    /// What this kernel allows and what it does not.
    pub features: Features,
    /// How long the kernel's jiffies are.
    pub clock: Clock,
    /// Jiffies a second.
    pub ticks_per_second: u32,
    /// Secret of the hashes.
    pub hash_key: u64,
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if self.ending == OnExit::Detach
            && let Some(pins) = self.pins.take()
        {
            attach::put_back_all(&pins, &[]);
            attach::remove_all_filters(&pins, &[]);
            pins.remove_all();
        }
    }
}

/// An attachment to a tracepoint.
struct Tracepoint {
    name: &'static str,
    _link: FdLink,
}

/// What a datapath has from a daemon before this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inheritance {
    /// Nothing: it begins anew.
    #[default]
    Nothing,
    /// What was gathered before.
    Maps {
        /// What was gathered, and could not be taken over.
        dropped: Vec<&'static str>,
    },
}

impl Datapath {
    /// From now on it is this one's tracepoints that count, and those of a daemon before it are let go.
    ///
    /// # Errors
    /// Where that cannot be written down.
    pub fn take_effect(&mut self) -> Result<(), DatapathError> {
        fault::point("taking effect");
        let instance = pins::read_instance(&self.instance)
            .map_err(|source| DatapathError::Host { what: "whose word the maps are", source })?;
        let ours = Instance { generation: self.generation, ..instance };
        self.instance.set(0, ours, 0).map_err(DatapathError::map(map::INSTANCE))?;
        fault::point("taken effect");
        if let Some(pins) = &self.pins {
            for tracepoint in &self.tracepoints {
                pins.put_in_force(tracepoint.name)?;
            }
        }
        Ok(())
    }

    /// Lets go of attachments of a daemon before this one to what is not guarded any more.
    pub fn keep_only(&self, attachments: &[&Attachment]) {
        let Some(pins) = &self.pins else { return };
        let attached = attachments.iter().filter_map(|attachment| attachment.pin_name());
        let of = |is_so: fn(&Attachment) -> bool| -> Vec<u32> {
            attachments.iter().filter(|attachment| is_so(attachment)).map(|attachment| attachment.index()).collect()
        };
        attach::put_back_all(pins, &of(Attachment::is_chained));
        attach::remove_all_filters(pins, &of(Attachment::is_filter));
        pins.keep_only_maps_of(self.generation);
        pins.keep_only_links(&attached.chain(self.tracepoints.iter().map(|at| at.name.to_owned())).collect::<Vec<_>>());
    }

    /// Runs one frame through the program without a network (`BPF_PROG_TEST_RUN`): the verdict.
    ///
    /// # Errors
    /// Where the kernel refuses to run it.
    pub fn test_run(&self, frame: &[u8]) -> Result<u32, DatapathError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = self.run_guard(options)?;
        Ok(result.return_value)
    }

    /// What time it is in the datapath, in jiffies.
    ///
    /// # Errors
    /// Where the kernel refuses to run the program that tells.
    pub fn jiffies(&self) -> Result<u64, DatapathError> {
        /// The shortest frame the kernel runs an XDP program on.
        const FRAME: [u8; 14] = [0; 14];
        let mut answer = [0; FRAME.len()];
        let options = TestRunOptions { data_in: Some(&FRAME), data_out: Some(&mut answer), ..TestRunOptions::new() };
        self.xdp(program::CLOCK)?.test_run(options).map_err(DatapathError::program(program::CLOCK))?;
        let mut jiffies = [0; 8];
        jiffies.copy_from_slice(&answer[..8]);
        Ok(u64::from_ne_bytes(jiffies))
    }

    /// Drops the SYNs of `source` until `until` (jiffies); 0 lets them in again.
    ///
    /// # Errors
    /// Where the kernel refuses to run the program that does it, or the source table has no room.
    pub fn block(&self, source: Address, until: u64) -> Result<(), DatapathError> {
        let order = BlockOrder::new(source, until);
        let options = TestRunOptions { data_in: Some(order.as_bytes()), ..TestRunOptions::new() };
        let result = self.xdp(program::BLOCK_SOURCE)?.test_run(options);
        match result.map_err(DatapathError::program(program::BLOCK_SOURCE))?.return_value {
            XDP_PASS => Ok(()),
            _ => Err(DatapathError::NoRoom(source)),
        }
    }

    /// Makes the listener at this address and port ready for cookies, so that it takes them for the next two
    /// minutes; false where there is none, or it has no room for another connection. Of several that share a
    /// port each `turn` asks another one: being ready is common to all.
    ///
    /// # Errors
    /// Where the kernel refuses to run the program that does it.
    pub fn prime(&self, address: IpAddr, port: u16, turn: u16) -> Result<bool, DatapathError> {
        let order = PrimeOrder::new(address, port, turn);
        let options = TestRunOptions { data_in: Some(order.as_bytes()), ..TestRunOptions::new() };
        let result = self.xdp(program::PRIME_LISTENER)?.test_run(options);
        Ok(result.map_err(DatapathError::program(program::PRIME_LISTENER))?.return_value == XDP_PASS)
    }

    /// Runs the guard on what `options` say; its verdict is that of XDP, wherever it is attached.
    ///
    /// # Errors
    /// Where the kernel refuses to run it.
    pub fn run_guard(&self, options: TestRunOptions<'_>) -> Result<TestRunResult, DatapathError> {
        let failed = DatapathError::program(program::GUARD);
        match self.ebpf.program(program::GUARD) {
            Some(Program::Xdp(guard)) => guard.test_run(options).map_err(failed),
            Some(Program::SchedClassifier(guard)) => {
                // Its verdicts are named as XDP's, so that whoever asks need not know.
                let result = guard.test_run(options).map_err(failed)?;
                Ok(TestRunResult { return_value: as_xdp(result.return_value), ..result })
            }
            _ => Err(DatapathError::Missing(program::GUARD)),
        }
    }

    fn guard_program_fd(&self) -> Result<BorrowedFd<'_>, DatapathError> {
        let program = self.ebpf.program(program::GUARD).ok_or(DatapathError::Missing(program::GUARD))?;
        program.fd().map(AsFd::as_fd).map_err(DatapathError::program(program::GUARD))
    }

    /// The XDP program, for those that run it themselves.
    ///
    /// # Errors
    /// Where the object has none.
    pub fn guard(&self) -> Result<&Xdp, DatapathError> {
        self.xdp(program::GUARD)
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
