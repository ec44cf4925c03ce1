//! Classifies an attack and finds its offenders.
//!
//! A source is an offender because of its own half-open handshakes, unless it completes at least as many: such a client
//! is busy, not hostile. A prefix is an offender if no small number of its sources accounts for its half-open
//! handshakes. Only sources and prefixes that stand out among all half-open handshakes are offenders: in a flood from
//! random sources each has a few, and none of them sent the flood.

use serde::{Deserialize, Serialize};
use tcpguard_common::address::Address;

use super::{Observation, Policy, leftover::Standing};
use crate::{
    kernel::Spread,
    monitor::{PORTS_OF_A_SCAN, PrefixReading, SourceReading},
    network::Network,
};

/// A source stands out if it has at least one in this many half-open handshakes.
const SOURCE_STANDS_OUT: u64 = 2048;
/// A prefix stands out if it has at least one in this many half-open handshakes.
const PREFIX_STANDS_OUT: u64 = 20;
/// The number of sources up to which an attack counts as one of few sources.
const FEW: usize = 128;
/// If this many of the heaviest sources of a prefix account for half of its handshakes, the sources are blocked instead
/// of the prefix.
const FEW_OF_A_PREFIX: usize = 16;
/// The share of half-open handshakes that determines the kind of an attack.
const PREDOMINANT: f64 = 0.6;
/// Below this share of the threshold, half-open handshakes are too few to determine the kind.
const TELLING: f64 = 0.5;

/// The kinds of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Many sources and few completions: the source addresses are most likely forged.
    Spoofed,
    /// Few sources account for most of it.
    Concentrated,
    /// Few prefixes account for most of it.
    Prefix,
    /// Few sources, each of which sends SYNs to many ports.
    Scan,
    /// Segments that are no SYNs and belong to no connection.
    Stray,
    /// No other kind predominates.
    Mixed,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Spoofed, Self::Concentrated, Self::Prefix, Self::Scan, Self::Stray, Self::Mixed];

    /// Returns the name used in the API, messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::Concentrated => "concentrated",
            Self::Prefix => "prefix",
            Self::Scan => "scan",
            Self::Stray => "stray",
            Self::Mixed => "mixed",
        }
    }
}

/// A source or prefix that exceeds its limit and stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// The source address, or the first address of the prefix.
    pub address: Address,
    /// Its half-open handshakes.
    pub half_open: u64,
    /// The half-open handshakes allowed.
    pub limit: u64,
    /// The handshakes it recently completed; for a prefix, those completed or reset.
    pub completed: u64,
    /// For a source, the estimated number of ports it sent SYNs to; 0 for a prefix.
    pub ports: u32,
    /// For a source, when its present block ends, in jiffies; 0 for a prefix.
    pub blocked_until: u64,
    /// A total that grows with every SYN that was let in.
    pub let_in: u64,
}

/// All offenders of one judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offenders {
    /// Offending sources.
    pub sources: Vec<Offender>,
    /// Offending prefixes.
    pub prefixes: Vec<Offender>,
}

pub(super) struct Classification {
    pub kind: Kind,
    pub evidence: String,
    /// Whether enough handshakes are half open, or enough segments belong to no connection, to determine the kind.
    pub is_telling: bool,
    pub offenders: Offenders,
}

pub(super) fn classify(policy: &Policy, observation: &Observation, standing: &Standing) -> Classification {
    let half_open = standing.half_open;
    let prefixes: Vec<PrefixReading> =
        standing.prefixes.iter().filter(|prefix| is_offending_prefix(policy, standing, prefix)).copied().collect();
    let in_offending_prefix =
        |source: &SourceReading| prefixes.iter().any(|prefix| network_of(policy, source.source) == prefix.network);
    let mut free: Vec<&SourceReading> = standing.sources.iter().filter(|source| !in_offending_prefix(source)).collect();
    free.sort_by_key(|source| std::cmp::Reverse(source.half_open));
    let sources = free.iter().filter(|source| is_offender(policy, source, half_open)).map(|source| Offender {
        address: source.source,
        half_open: source.half_open,
        limit: policy.source_half_open,
        completed: source.recent_completed,
        ports: source.ports,
        blocked_until: source.blocked_until,
        let_in: source.passed,
    });
    let offenders = Offenders {
        sources: sources.collect(),
        prefixes: prefixes.iter().map(|prefix| prefix_offence(policy, prefix)).collect(),
    };
    free.truncate(FEW);
    free.retain(|source| !completes(source));
    let others = policy.services.iter().map(|(_, limits)| limits);
    let others = others.chain(policy.protected.iter().map(|(_, limits)| limits));
    let threshold = others.map(|limits| limits.max_half_open).fold(policy.host.max_half_open, u64::min);
    let is_telling = half_open as f64 >= TELLING * threshold as f64;
    let strays = observation.pressure.host.strays;
    let are_strays_telling = policy.host.max_stray.is_some_and(|threshold| strays > threshold);
    let of_strays = || format!("{strays} segments in a second belong to no connection");
    let (kind, evidence) = if is_telling {
        let (kind, evidence) = name(half_open, &free, &prefixes, observation.rates.distinct_sources);
        if are_strays_telling { (Kind::Mixed, format!("{evidence}; {}", of_strays())) } else { (kind, evidence) }
    } else if are_strays_telling {
        (Kind::Stray, of_strays())
    } else {
        name_by_kernel(observation)
    };
    Classification { kind, evidence, is_telling: is_telling || are_strays_telling, offenders }
}

fn prefix_offence(policy: &Policy, prefix: &PrefixReading) -> Offender {
    Offender {
        address: prefix.network,
        half_open: prefix.half_open,
        limit: policy.prefix_half_open,
        completed: prefix.ended,
        ports: 0,
        blocked_until: 0,
        let_in: prefix.unanswered,
    }
}

/// Returns `true` if at least as many of its handshakes complete as stay half open.
fn completes(source: &SourceReading) -> bool {
    source.recent_completed > 0 && source.recent_completed >= source.recent_half_open
}

fn is_offender(policy: &Policy, source: &SourceReading, half_open: u64) -> bool {
    source.half_open > policy.source_half_open
        && source.half_open >= half_open / SOURCE_STANDS_OUT
        && !completes(source)
}

fn is_offending_prefix(policy: &Policy, standing: &Standing, prefix: &PrefixReading) -> bool {
    let stands_out =
        prefix.half_open > policy.prefix_half_open && prefix.half_open >= standing.half_open / PREFIX_STANDS_OUT;
    if !stands_out || prefix.ended >= prefix.half_open {
        return false;
    }
    let mut of_sources: Vec<u64> = standing
        .sources
        .iter()
        .filter(|source| network_of(policy, source.source) == prefix.network)
        .map(|source| source.half_open)
        .collect();
    of_sources.sort_unstable_by(|left, right| right.cmp(left));
    of_sources.iter().take(FEW_OF_A_PREFIX).sum::<u64>() * 2 < prefix.half_open
}

fn network_of(policy: &Policy, source: Address) -> Address {
    Network::at(source, policy.prefix_lengths).first()
}

/// Returns the kind that accounts for most half-open handshakes, and the evidence.
fn name(half_open: u64, few: &[&SourceReading], prefixes: &[PrefixReading], distinct_sources: f64) -> (Kind, String) {
    let (scanning, others): (Vec<&SourceReading>, Vec<&SourceReading>) =
        few.iter().copied().partition(|source| source.ports >= PORTS_OF_A_SCAN);
    let sum = |sources: &[&SourceReading]| sources.iter().map(|source| source.half_open).sum::<u64>();
    let of_prefixes: u64 = prefixes.iter().map(|prefix| prefix.half_open).sum();
    let share = |part: u64| (part as f64 / half_open.max(1) as f64).min(1.0);
    let parts = [(Kind::Scan, sum(&scanning)), (Kind::Concentrated, sum(&others)), (Kind::Prefix, of_prefixes)];
    let explained: u64 = parts.iter().map(|(_, part)| part).sum();
    let shares = parts.into_iter().chain([(Kind::Spoofed, half_open.saturating_sub(explained))]);
    let shares: Vec<(Kind, f64)> = shares.map(|(kind, part)| (kind, share(part))).collect();
    let (mut kind, most) =
        shares.iter().copied().fold((Kind::Mixed, 0.0), |most, next| if next.1 > most.1 { next } else { most });
    if most < PREDOMINANT {
        kind = Kind::Mixed;
    }
    let percent = |wanted: Kind| shares.iter().find(|(kind, _)| *kind == wanted).map_or(0.0, |share| share.1 * 100.0);
    let evidence = match kind {
        Kind::Scan => {
            format!("{} sources scan many ports: {:.0} % of the half-open handshakes", scanning.len(), percent(kind))
        }
        Kind::Concentrated => {
            format!("{} sources have {:.0} % of the half-open handshakes", others.len(), percent(kind))
        }
        Kind::Prefix => format!("{} prefixes have {:.0} % of the half-open handshakes", prefixes.len(), percent(kind)),
        Kind::Spoofed => format!(
            "{:.0} % of the half-open handshakes are of sources that do not stand out{}",
            percent(kind),
            sources_per_second(distinct_sources)
        ),
        Kind::Stray | Kind::Mixed => format!(
            "half-open handshakes: few sources {:.0} %, scanning sources {:.0} %, prefixes {:.0} %, others {:.0} %",
            percent(Kind::Concentrated),
            percent(Kind::Scan),
            percent(Kind::Prefix),
            percent(Kind::Spoofed)
        ),
    };
    (kind, evidence)
}

/// Returns the kind by the kernel's rows and the number of sources. Used for attacks that the datapath does not count,
/// such as traffic on an interface that is not guarded, or malformed segments.
fn name_by_kernel(observation: &Observation) -> (Kind, String) {
    let spread = Spread::of(observation.kernel_rows.iter().map(|row| row.remote.ip()));
    let kind = match &spread {
        Spread::Random { .. } | Spread::Forged { .. } => Kind::Spoofed,
        Spread::OneNetwork { .. } => Kind::Prefix,
        Spread::FewSources { .. } => Kind::Concentrated,
        Spread::Mixed { .. } => Kind::Mixed,
        Spread::Empty | Spread::TooFew { .. } if observation.rates.distinct_sources > FEW as f64 => Kind::Spoofed,
        Spread::Empty | Spread::TooFew { .. } => Kind::Concentrated,
    };
    (kind, format!("half open in the kernel: {spread}{}", sources_per_second(observation.rates.distinct_sources)))
}

/// Returns the number of distinct sources, to be appended. It is estimated over a whole second: in the first second of an
/// attack it is not known yet, and left out.
fn sources_per_second(distinct_sources: f64) -> String {
    let sources = distinct_sources.round();
    if sources < 1.0 {
        return String::new();
    }
    format!("; about {sources:.0} sources per second")
}
