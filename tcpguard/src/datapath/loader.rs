//! Loading of the datapath. Optional features that the kernel lacks are left out and reported.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{BtfTracePoint, Program, ProgramType, links::FdLink},
    sys::{BpfHelper, is_helper_supported},
};
use nix::time::{ClockId, clock_getres};
use tcpguard_common::{
    abi::{
        names::{map, program, setting},
        socket_layout::SocketLayout,
        takeover::{CARRIED_MAPS, Instance},
    },
    address::prefix_mask,
    clock::Clock,
    tracking::{admission, filter},
};

use tracing::warn;

use super::{
    Datapath, DatapathError, Inheritance, Maps, Tracepoint, btf, log,
    maps::take,
    pins::{Expected, Found, PinError, Pins},
};
use crate::{
    config::{Hook, OnExit},
    fault,
};

/// The options the datapath is loaded with.
#[derive(Clone, Debug)]
pub struct DatapathOptions {
    /// The number of entries of the source table.
    pub max_sources: u32,
    /// The length of the prefixes that IPv4 sources are accounted under, in bits.
    pub prefix_v4: u8,
    /// The length of the prefixes that IPv6 sources are accounted under, in bits.
    pub prefix_v6: u8,
    /// The hook the datapath will be attached to.
    pub hook: Hook,
    /// Whether passed frames are handed to the programs previously attached to the interfaces.
    pub chains: bool,
    /// The folder for pins; `None` if nothing is to outlive the daemon.
    pub pins: Option<PathBuf>,
    /// aya-log's level (1 error to 5 trace), or `None` for no log: the logging code is then removed from the programs.
    pub log_level: Option<u8>,
}

/// The availability of a kernel feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The feature is available and in use.
    Available,
    /// The feature is unavailable, for this reason; tcpguard works without it.
    Unavailable(String),
}

impl Feature {
    /// Returns the reason why the feature is unavailable.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Available => None,
            Self::Unavailable(reason) => Some(reason),
        }
    }
}

/// The optional features of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Completed handshakes are seen (tracepoint `sock:inet_sock_set_state`).
    pub completions: Feature,
    /// The datapath can generate SYN cookies (since Linux 6.0).
    pub cookies: Feature,
    /// Retransmitted SYN-ACKs are seen (tracepoint `tcp:tcp_retransmit_synack`).
    pub retries: Feature,
}

impl Features {
    /// Returns whether completed handshakes are seen. Without them, sources cannot be judged by completion.
    pub fn sees_completions(&self) -> bool {
        self.completions == Feature::Available
    }
}

/// The purpose the programs are loaded for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// Guarding interfaces: attached to them, and to the tracepoints.
    Guarding,
    /// Running single frames with a copy of the state of a datapath that uses this hash key.
    Explaining { hash_key: u64 },
}

/// The capacity of a twin's source table.
const TWIN_SOURCES: u32 = 4096;

/// The kernel requires the size of a ring buffer to be a multiple of the page size.
const SMALLEST_RING: u32 = 4096;

static AT_XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpguard.bpf.o"));
/// The programs compiled for traffic control.
static AT_TC: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcpguard-tc.bpf.o"));

const fn object_for(hook: Hook) -> &'static [u8] {
    match hook {
        Hook::Xdp => AT_XDP,
        Hook::Tc => AT_TC,
    }
}

impl Datapath {
    /// Loads the programs and maps, without attaching to any interface.
    ///
    /// # Errors
    /// Returns an error if loading is not permitted, the kernel lacks a required feature, or another daemon holds the
    /// pins.
    pub fn load(options: &DatapathOptions) -> Result<(Self, Maps), DatapathError> {
        Self::load_for(options, Purpose::Guarding)
    }

    /// Loads the programs and maps for running single frames: they are attached to neither interfaces nor tracepoints.
    ///
    /// # Errors
    /// Returns the same errors as [`Datapath::load`].
    pub fn load_unattached(options: &DatapathOptions) -> Result<(Self, Maps), DatapathError> {
        Self::load_for(options, Purpose::Explaining { hash_key: random_key()? })
    }

    pub(super) fn load_for(options: &DatapathOptions, purpose: Purpose) -> Result<(Self, Maps), DatapathError> {
        let ticks_per_second = ticks_per_second()?;
        let clock = Clock::new(ticks_per_second);
        let entries = match purpose {
            Purpose::Guarding => options.max_sources,
            Purpose::Explaining { .. } => options.max_sources.min(TWIN_SOURCES),
        };
        let (layout, layout_problem) = match btf::socket_layout() {
            Ok(layout) => (layout, None),
            Err(error) => (SocketLayout::UNKNOWN, Some(error.to_string())),
        };
        let filter_blocks = filter::blocks(options.max_sources);
        let allowance = admission::whole_allowance(options.max_sources);
        let namespace = namespace_inode()?;
        let (mask_v4, mask_v6) = (prefix_mask(96 + options.prefix_v4.min(32)), prefix_mask(options.prefix_v6));
        let long_ticks = u64::from(ticks_per_second);
        let log_level = options.log_level.unwrap_or(0);
        let cookies = cookies();
        let can_make_cookies = u32::from(cookies == Feature::Available);
        let pins = options.pins.as_deref().filter(|_| matches!(purpose, Purpose::Guarding));
        let mut preliminary = Preliminary::new(pins.map(open_pins).transpose()?.flatten());
        let pins = preliminary.pins.as_ref();
        let sizes = [(map::SOURCES, entries), (map::KNOWN_SOURCES, filter_blocks)];
        let estate = take_over(pins, options, &sizes)?;
        preliminary.is_first &= estate.instance.is_none();
        let hash_key = match (purpose, estate.instance) {
            (Purpose::Explaining { hash_key }, _) => hash_key,
            (Purpose::Guarding, Some(instance)) => instance.hash_key,
            (Purpose::Guarding, None) => random_key()?,
        };
        let instance = estate.instance.unwrap_or(Instance::new(hash_key, options.prefix_v4, options.prefix_v6));
        let generation = instance.generation + 1;

        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global(setting::GENERATION, &generation, true)
            .override_global(setting::HASH_KEY, &hash_key, true)
            .override_global(setting::PREFIX_MASK_IPV4, &mask_v4, true)
            .override_global(setting::PREFIX_MASK_IPV6, &mask_v6, true)
            .override_global(setting::CLOCK, &clock, true)
            .override_global(setting::TICKS_PER_SECOND, &long_ticks, true)
            .override_global(setting::WHOLE_ALLOWANCE, &allowance, true)
            .override_global(setting::FILTER_BLOCKS, &filter_blocks, true)
            .override_global(setting::CAN_MAKE_COOKIES, &can_make_cookies, true)
            .override_global(setting::NAMESPACE, &namespace, true)
            .override_global(setting::SOCKET_LAYOUT, &layout, true)
            .override_global(setting::LOG_LEVEL, &log_level, true);
        let chains = u32::from(options.chains);
        if options.hook == Hook::Xdp {
            loader.override_global(setting::CHAINS, &chains, true);
        }
        if options.log_level.is_none() {
            loader.map_max_entries(map::LOG, SMALLEST_RING);
        }
        for (name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        for carried in CARRIED_MAPS {
            if let Some(pins) = pins {
                loader.map_pin_path(carried.map, pins.map_path(carried));
            }
        }
        fault::point("loading maps");
        let mut ebpf = loader.load(object_for(options.hook)).map_err(|error| DatapathError::object(&error))?;

        for name in [program::GUARD, program::CLOCK, program::BLOCK_SOURCE, program::PRIME_LISTENER] {
            load_program(&mut ebpf, name)?;
        }
        if cookies == Feature::Available {
            load_program(&mut ebpf, program::ANSWER_SYN)?;
            install_answer(&mut ebpf)?;
        }
        let mut instance_map: Array<MapData, Instance> = take(&mut ebpf, map::INSTANCE)?;
        // Written before the tracepoints are attached: whether they count depends on it.
        instance_map.set(0, instance, 0).map_err(DatapathError::map(map::INSTANCE))?;
        for name in [map::ANSWER, map::CHAINED] {
            if let (Some(pins), Some(Map::ProgramArray(array))) = (pins, ebpf.map(name)) {
                pins.add_map_of(generation, name, array)?;
            }
        }
        let mut tracepoints = Vec::new();
        let mut tracepoint = |name, tracepoint| match (&layout_problem, purpose) {
            (Some(problem), _) => Feature::Unavailable(problem.clone()),
            (None, Purpose::Guarding) => match attach_tracepoint(&mut ebpf, name, tracepoint, pins) {
                Ok(link) => {
                    tracepoints.push(Tracepoint { name, _link: link });
                    Feature::Available
                }
                Err(error) => Feature::Unavailable(error.to_string()),
            },
            (None, Purpose::Explaining { .. }) => Feature::Unavailable("a twin has no tracepoints".to_owned()),
        };
        let features = Features {
            completions: tracepoint(program::HANDSHAKE_COMPLETED, "inet_sock_set_state"),
            cookies,
            retries: tracepoint(program::SYN_ACK_RETRIED, "tcp_retransmit_synack"),
        };
        if options.log_level.is_some() {
            log::start(&mut ebpf);
        }
        let maps = Maps::take(&mut ebpf, hash_key, filter_blocks, ticks_per_second, options)?;
        let inheritance = Inheritance::from(estate);
        let pins = preliminary.pins.take();
        let datapath = Self {
            ebpf,
            hook: options.hook,
            tracepoints,
            instance: instance_map,
            generation,
            pins,
            // What the previous daemon left stays attached until this datapath guards.
            ending: if inheritance == Inheritance::Nothing { OnExit::Detach } else { OnExit::Keep },
            inheritance,
            features,
            clock,
            ticks_per_second,
            hash_key,
        };
        Ok((datapath, maps))
    }
}

/// Opens the pins, or returns `None` with a warning if they are unusable. Fails only if another daemon holds them.
fn open_pins(root: &Path) -> Result<Option<Pins>, DatapathError> {
    match Pins::open(root) {
        Ok(pins) => Ok(Some(pins)),
        Err(taken @ PinError::Taken(_)) => Err(taken.into()),
        Err(problem) => {
            warn!(
                "{problem}; without pins a restart begins anew, and a crash leaves the host unguarded until the next start"
            );
            Ok(None)
        }
    }
}

/// The pins during loading. If loading fails and there was nothing to take over, they are removed.
struct Preliminary {
    pins: Option<Pins>,
    is_first: bool,
}

impl Preliminary {
    fn new(pins: Option<Pins>) -> Self {
        let is_first = pins.as_ref().is_some_and(|pins| !pins.has_links());
        Self { pins, is_first }
    }
}

impl Drop for Preliminary {
    fn drop(&mut self) {
        if let Some(pins) = self.pins.take().filter(|_| self.is_first) {
            pins.remove_all();
        }
    }
}

/// Keeps the previous daemon's pinned maps that fit, and unpins the others.
fn take_over(pins: Option<&Pins>, options: &DatapathOptions, sizes: &[(&str, u32)]) -> Result<Found, DatapathError> {
    let Some(pins) = pins else { return Ok(Found::default()) };
    let mut expected = Expected::of_object(object_for(options.hook))?;
    for (name, entries) in sizes {
        if let Some(expected) = expected.get_mut(*name) {
            expected.max_entries = *entries;
        }
    }
    let wanted = Instance::new(0, options.prefix_v4, options.prefix_v6);
    let found = pins.keep_fitting_maps(&expected, |instance, name| {
        name != map::PREFIXES || instance.prefix_lengths == wanted.prefix_lengths
    });
    let instance = found.instance.map(|instance| Instance { prefix_lengths: wanted.prefix_lengths, ..instance });
    Ok(Found { instance, ..found })
}

impl From<Found> for Inheritance {
    fn from(found: Found) -> Self {
        match found.instance {
            Some(_) => Self::Maps { dropped: found.dropped },
            None => Self::Nothing,
        }
    }
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), DatapathError> {
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => program.load().map_err(DatapathError::program(name)),
        Some(Program::SchedClassifier(program)) => program.load().map_err(DatapathError::program(name)),
        _ => Err(DatapathError::Missing(name)),
    }
}

/// Installs the program that answers SYNs in the program array.
fn install_answer(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let program = ebpf.program(program::ANSWER_SYN).ok_or(DatapathError::Missing(program::ANSWER_SYN))?;
    let program =
        program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(DatapathError::program(program::ANSWER_SYN))?;
    let map = ebpf.map_mut(map::ANSWER).ok_or(DatapathError::Missing(map::ANSWER))?;
    let mut answer = ProgramArray::try_from(map).map_err(DatapathError::map(map::ANSWER))?;
    answer.set(0, &program, 0).map_err(DatapathError::map(map::ANSWER))
}

/// Attaches a program to a tracepoint. It counts from [`Datapath::take_effect`] on.
fn attach_tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &str,
    pins: Option<&Pins>,
) -> Result<FdLink, DatapathError> {
    let btf = Btf::from_sys_fs().map_err(|error| DatapathError::Object(error.to_string()))?;
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(DatapathError::program(name))?;
    program.load(tracepoint, &btf).map_err(DatapathError::program(name))?;
    let id = program.attach().map_err(DatapathError::program(name))?;
    let link = FdLink::from(program.take_link(id).map_err(DatapathError::program(name))?);
    match pins {
        Some(pins) => Ok(pins.add_next_link(name, link)?),
        None => Ok(link),
    }
}

/// Checks whether the kernel has the helpers that generate and check SYN cookies.
fn cookies() -> Feature {
    let needed = [
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv6,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv6,
    ];
    for helper in needed {
        match is_helper_supported(ProgramType::Xdp, helper) {
            Ok(true) => {}
            Ok(false) => {
                return Feature::Unavailable(format!("this kernel has no {helper:?} (available since Linux 6.0)"));
            }
            Err(error) => return Feature::Unavailable(format!("cannot probe the kernel for {helper:?}: {error}")),
        }
    }
    Feature::Available
}

/// Returns CONFIG_HZ, derived from the resolution of the coarse clocks, which advance once per tick.
fn ticks_per_second() -> Result<u32, DatapathError> {
    const NANOSECONDS: i64 = 1_000_000_000;
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|error| DatapathError::Host { what: "the kernel's tick rate", source: error.into() })?;
    let nanoseconds = resolution.tv_sec() * NANOSECONDS + resolution.tv_nsec();
    let ticks = (NANOSECONDS + nanoseconds / 2).checked_div(nanoseconds).unwrap_or(0);
    Ok(u32::try_from(ticks).unwrap_or(0).clamp(4, 10_000))
}

fn random_key() -> Result<u64, DatapathError> {
    getrandom::u64()
        .map_err(|error| DatapathError::Host { what: "a random hash key", source: std::io::Error::other(error) })
}

fn namespace_inode() -> Result<u32, DatapathError> {
    let metadata = std::fs::metadata("/proc/self/ns/net")
        .map_err(|source| DatapathError::Host { what: "the network namespace", source })?;
    // ns_common.inum has 32 bits.
    Ok(metadata.ino() as u32)
}
