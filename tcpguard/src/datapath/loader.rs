//! Loading of the datapath. Optional features that the kernel lacks are left out and reported.

use std::{collections::BTreeMap, panic::resume_unwind, path::Path, thread};

use aya::{
    Btf, BtfError, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{BtfTracePoint, Program, links::FdLink},
};
use tcpguard_common::abi::{
    names::{answer, map, program, setting},
    takeover::{CARRIED_MAPS, Instance},
};

use tracing::warn;

use super::{
    Datapath, DatapathError, DatapathOptions, Feature, Features, Maps, Takeover, Tracepoint,
    embedded::object_for,
    environment::Environment,
    log, map_memory,
    maps::take,
    options::Purpose,
    pins::{Expected, PinError, Pins, TakenOver},
};
use crate::fault;

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
        let object = object_for(options.hook)?;
        let (sizes, memory) = map_memory::plan(&object, options, purpose)?;
        let environment = Environment::read(options, purpose.source_entries(options.max_sources), memory.cpus)?;
        let mut held = HeldPins::open(options, purpose)?;
        let taken_over = take_over(held.pins.as_ref(), options, &sizes);
        held.is_first &= taken_over.instance.is_none();
        let hash_key = match (purpose, taken_over.instance) {
            (Purpose::Explaining { hash_key }, _) => hash_key,
            (Purpose::Guarding, Some(instance)) => instance.hash_key,
            (Purpose::Guarding, None) => random_key()?,
        };
        let new = Instance::new(hash_key, options.prefix_v4, options.prefix_v6);
        let instance = taken_over.instance.unwrap_or(new);
        let generation = instance.generation + 1;

        let pins = held.pins.as_ref();
        let identity = Identity { generation, hash_key };
        // Parsed once, because it has megabytes.
        let kernel_types = Btf::from_sys_fs();
        let mut ebpf = load_object(&object, &environment, kernel_types.as_ref().ok(), &identity, &sizes, pins)?;
        load_programs(&mut ebpf, &environment)?;
        let mut instance_map: Array<MapData, Instance> = take(&mut ebpf, map::INSTANCE)?;
        // Written before the tracepoints are attached: whether they count depends on it.
        instance_map.set(0, instance, 0).map_err(DatapathError::map(map::INSTANCE))?;
        pin_program_arrays(&ebpf, generation, pins)?;
        let (tracepoints, features) = attach_tracepoints(&mut ebpf, &environment, &kernel_types, purpose, pins);
        if options.log_level.is_some() {
            log::start(&mut ebpf);
        }
        let maps = Maps::take(&mut ebpf, hash_key, memory.cpus, options)?;
        let takeover = Takeover::from(taken_over);
        let datapath = Self {
            ebpf,
            hook: options.hook,
            tracepoints,
            instance: instance_map,
            generation,
            is_in_effect: false,
            pins: held.pins.take(),
            // What the previous daemon left stays attached until this datapath guards.
            detaches_when_dropped: takeover == Takeover::Nothing,
            takeover,
            memory,
            features,
            sent_problem: environment.sent_problem.clone(),
            clock: environment.clock,
            ticks_per_second: environment.ticks_per_second,
            hash_key,
        };
        Ok((datapath, maps))
    }
}

impl Datapath {
    /// Attaches the program that observes the SYN-ACKs of servers behind this host, if it is not attached yet.
    ///
    /// # Errors
    /// Returns an error if the kernel does not allow it, or its structures are not known.
    pub fn observe_sent(&mut self) -> Result<(), DatapathError> {
        const NAME: &str = program::SEGMENT_SENT;
        if self.tracepoints.iter().any(|tracepoint| tracepoint.name == NAME) {
            return Ok(());
        }
        if let Some(problem) = &self.sent_problem {
            return Err(DatapathError::Object(problem.clone()));
        }
        let kernel_types = Btf::from_sys_fs();
        let link = attach_tracepoint(&mut self.ebpf, NAME, "net_dev_start_xmit", &kernel_types, self.pins.as_ref())?;
        if let Some(pins) = self.pins.as_ref().filter(|_| self.is_in_effect) {
            pins.put_in_force(NAME)?;
        }
        self.tracepoints.push(Tracepoint { name: NAME, _link: link });
        Ok(())
    }
}

/// What tells this datapath apart from others.
struct Identity {
    /// Its generation, among those that share maps.
    generation: u64,
    /// The key of the hash functions, which it shares with the maps that it takes over.
    hash_key: u64,
}

/// Creates the maps, or opens those that are taken over, and parses the programs.
fn load_object(
    object: &[u8],
    environment: &Environment,
    kernel_types: Option<&Btf>,
    identity: &Identity,
    sizes: &BTreeMap<String, Expected>,
    pins: Option<&Pins>,
) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    loader
        .btf(kernel_types)
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .override_global(setting::GENERATION, &identity.generation, true)
        .override_global(setting::HASH_KEY, &identity.hash_key, true);
    environment.set(&mut loader);
    for (name, map) in sizes {
        loader.map_max_entries(name, map.max_entries);
    }
    if let Some(pins) = pins {
        for carried in CARRIED_MAPS {
            loader.map_pin_path(carried.map, pins.map_path(carried));
        }
    }
    fault::point("loading maps");
    loader.load(object).map_err(|error| DatapathError::object(&error))
}

/// Loads every program that is not attached to a tracepoint. The kernel verifies them at the same time, which is most
/// of what a start takes.
fn load_programs(ebpf: &mut Ebpf, environment: &Environment) -> Result<(), DatapathError> {
    let mut answers = vec![(answer::FOR_RESET, program::PROMPT_RESET), (answer::BEHIND, program::JUDGE_BEHIND)];
    if environment.cookies == Feature::Available {
        answers.push((answer::WITH_COOKIE, program::ANSWER_SYN));
    }
    let mut names = vec![program::PACKET, program::CLOCK, program::BLOCK_SOURCE, program::PRIME_LISTENER];
    names.extend(answers.iter().map(|(_, name)| *name));
    if let Some(missing) = names.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(DatapathError::Missing(missing));
    }
    let programs = ebpf.programs_mut().filter_map(|(found, program)| {
        let name = names.iter().find(|name| **name == found)?;
        Some((*name, program))
    });
    thread::scope(|scope| {
        let loads: Vec<_> = programs.map(|(name, program)| scope.spawn(|| load_program(name, program))).collect();
        loads.into_iter().try_for_each(|load| load.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    answers.into_iter().try_for_each(|(place, name)| install_answer(ebpf, place, name))
}

/// Pins the program arrays, which the kernel would clear otherwise; see [`Pins::add_map_of`].
fn pin_program_arrays(ebpf: &Ebpf, generation: u64, pins: Option<&Pins>) -> Result<(), DatapathError> {
    for name in [map::ANSWER, map::CHAINED] {
        if let (Some(pins), Some(Map::ProgramArray(array))) = (pins, ebpf.map(name)) {
            pins.add_map_of(generation, name, array)?;
        }
    }
    Ok(())
}

/// Attaches the programs to their tracepoints, where the kernel allows it.
fn attach_tracepoints(
    ebpf: &mut Ebpf,
    environment: &Environment,
    kernel_types: &Result<Btf, BtfError>,
    purpose: Purpose,
    pins: Option<&Pins>,
) -> (Vec<Tracepoint>, Features) {
    let mut tracepoints = Vec::new();
    let mut attach = |name, tracepoint| match (&environment.layout_problem, purpose) {
        (Some(problem), _) => Feature::Unavailable(problem.clone()),
        (None, Purpose::Guarding) => match attach_tracepoint(ebpf, name, tracepoint, kernel_types, pins) {
            Ok(link) => {
                tracepoints.push(Tracepoint { name, _link: link });
                Feature::Available
            }
            Err(error) => Feature::Unavailable(error.to_string()),
        },
        (None, Purpose::Explaining { .. }) => Feature::Unavailable("a twin has no tracepoints".to_owned()),
    };
    let features = Features {
        completions: attach(program::HANDSHAKE_COMPLETED, "inet_sock_set_state"),
        cookies: environment.cookies.clone(),
        retries: attach(program::SYN_ACK_RETRIED, "tcp_retransmit_synack"),
    };
    (tracepoints, features)
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
struct HeldPins {
    pins: Option<Pins>,
    is_first: bool,
}

impl HeldPins {
    fn open(options: &DatapathOptions, purpose: Purpose) -> Result<Self, DatapathError> {
        let root = options.pins.as_deref().filter(|_| matches!(purpose, Purpose::Guarding));
        let pins = root.map(open_pins).transpose()?.flatten();
        let is_first = pins.as_ref().is_some_and(|pins| !pins.has_links());
        Ok(Self { pins, is_first })
    }
}

impl Drop for HeldPins {
    fn drop(&mut self) {
        if let Some(pins) = self.pins.take().filter(|_| self.is_first) {
            pins.remove_all();
        }
    }
}

/// Keeps the previous daemon's pinned maps that fit, and unpins the others.
fn take_over(pins: Option<&Pins>, options: &DatapathOptions, expected: &BTreeMap<String, Expected>) -> TakenOver {
    let Some(pins) = pins else { return TakenOver::default() };
    let wanted = Instance::new(0, options.prefix_v4, options.prefix_v6);
    let kept = pins.keep_fitting_maps(expected, |instance, name| {
        name != map::PREFIXES || instance.prefix_lengths == wanted.prefix_lengths
    });
    let instance = kept.instance.map(|instance| Instance { prefix_lengths: wanted.prefix_lengths, ..instance });
    TakenOver { instance, ..kept }
}

impl From<TakenOver> for Takeover {
    fn from(found: TakenOver) -> Self {
        match found.instance {
            Some(_) => Self::Maps { dropped: found.dropped },
            None => Self::Nothing,
        }
    }
}

fn load_program(name: &'static str, program: &mut Program) -> Result<(), DatapathError> {
    match program {
        Program::Xdp(program) => program.load().map_err(DatapathError::program(name)),
        Program::SchedClassifier(program) => program.load().map_err(DatapathError::program(name)),
        _ => Err(DatapathError::Missing(name)),
    }
}

/// Installs a program that answers SYNs in the program array.
fn install_answer(ebpf: &mut Ebpf, place: u32, name: &'static str) -> Result<(), DatapathError> {
    let program = ebpf.program(name).ok_or(DatapathError::Missing(name))?;
    let program = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(DatapathError::program(name))?;
    let map = ebpf.map_mut(map::ANSWER).ok_or(DatapathError::Missing(map::ANSWER))?;
    let mut answers = ProgramArray::try_from(map).map_err(DatapathError::map(map::ANSWER))?;
    answers.set(place, &program, 0).map_err(DatapathError::map(map::ANSWER))
}

/// Attaches a program to a tracepoint. It counts from [`Datapath::take_effect`] on.
fn attach_tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &str,
    kernel_types: &Result<Btf, BtfError>,
    pins: Option<&Pins>,
) -> Result<FdLink, DatapathError> {
    let types = kernel_types.as_ref().map_err(|error| DatapathError::Object(error.to_string()))?;
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(DatapathError::program(name))?;
    program.load(tracepoint, types).map_err(DatapathError::program(name))?;
    let id = program.attach().map_err(DatapathError::program(name))?;
    let link = FdLink::from(program.take_link(id).map_err(DatapathError::program(name))?);
    match pins {
        Some(pins) => Ok(pins.add_next_link(name, link)?),
        None => Ok(link),
    }
}

fn random_key() -> Result<u64, DatapathError> {
    getrandom::u64()
        .map_err(|error| DatapathError::Host { what: "a random hash key", source: std::io::Error::other(error) })
}
