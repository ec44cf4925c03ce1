//! What kind of attack it is, and who has to answer for it.
//!
//! A source answers for its own half-open handshakes, unless it completes as many: a client is busy, not
//! hostile. A network answers where no few of its sources do. Nobody answers who does not stand out among
//! all that is half open: in a flood of random sources each has a little, and those are not who sent it.

use serde::{Deserialize, Serialize};
use tcpguard_common::address::Address;

use super::{Observation, Policy};
use crate::{
    kernel::Spread,
    lists::Network,
    monitor::{PrefixReading, SourceReading},
};

/// A source stands out with this part of all half-open handshakes.
const SOURCE_STANDS_OUT: u64 = 2048;
/// A network stands out with this part.
const PREFIX_STANDS_OUT: u64 = 20;
/// More sources than this are not few.
const FEW: usize = 128;
/// What the heaviest so many sources of a network have is their doing, not the network's.
const FEW_OF_A_PREFIX: usize = 16;
/// A source that asks for so many ports looks for open ones.
const PORTS_OF_A_SCAN: u32 = 32;
/// An attack is of the kind that makes up this share of it.
const PREDOMINANT: f64 = 0.6;
/// Fewer half-open handshakes than this share of the threshold tell little about the kind.
const TELLING: f64 = 0.5;

/// The kinds of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Many sources, few completions: the sources are forged, most likely.
    Spoofed,
    /// Few sources.
    Concentrated,
    /// Few networks.
    Prefix,
    /// Few sources that ask for many ports.
    Scan,
    /// None of these alone.
    Mixed,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Spoofed, Self::Concentrated, Self::Prefix, Self::Scan, Self::Mixed];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::Concentrated => "concentrated",
            Self::Prefix => "prefix",
            Self::Scan => "scan",
            Self::Mixed => "mixed",
        }
    }
}

/// Who has to answer, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offence {
    /// A source, or a network's first address.
    pub address: Address,
    /// Its half-open handshakes.
    pub half_open: u64,
    /// What it may have.
    pub limit: u64,
    /// Handshakes that it completed of late.
    pub completed: u64,
    /// For a source: about how many ports it asked for.
    pub ports: u32,
    /// For a source: until when it is blocked already, in jiffies.
    pub blocked_until: u64,
    /// A count that grows with every SYN of it that was let in.
    pub let_in: u64,
}

/// All who have to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offenders {
    /// Sources.
    pub sources: Vec<Offence>,
    /// Networks.
    pub prefixes: Vec<Offence>,
}

pub(super) struct Classification {
    pub kind: Kind,
    pub evidence: String,
    /// Whether there is enough half open to tell.
    pub is_telling: bool,
    pub offenders: Offenders,
}

pub(super) fn classify(policy: &Policy, observation: &Observation) -> Classification {
    let half_open = observation.half_open();
    let prefixes: Vec<PrefixReading> = observation
        .prefixes
        .iter()
        .filter(|prefix| is_offending_prefix(policy, observation, prefix))
        .copied()
        .collect();
    let in_offending_prefix =
        |source: &SourceReading| prefixes.iter().any(|prefix| network_of(policy, source.source) == prefix.network);
    let mut free: Vec<&SourceReading> =
        observation.sources.iter().filter(|source| !in_offending_prefix(source)).collect();
    free.sort_by_key(|source| std::cmp::Reverse(source.half_open));
    let sources = free.iter().filter(|source| is_offender(policy, source, half_open)).map(|source| Offence {
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
    let threshold =
        policy.services.iter().map(|(_, limits)| limits.max_half_open).fold(policy.host.max_half_open, u64::min);
    let is_telling = half_open as f64 >= TELLING * threshold as f64;
    let (kind, evidence) = if is_telling {
        name(half_open, &free, &prefixes, observation.distinct_sources)
    } else {
        name_by_kernel(observation)
    };
    Classification { kind, evidence, is_telling, offenders }
}

fn prefix_offence(policy: &Policy, prefix: &PrefixReading) -> Offence {
    Offence {
        address: prefix.network,
        half_open: prefix.half_open,
        limit: policy.prefix_half_open,
        completed: prefix.ended,
        ports: 0,
        blocked_until: 0,
        let_in: prefix.unanswered,
    }
}

/// Whether its handshakes complete more often than not.
fn completes(source: &SourceReading) -> bool {
    source.recent_completed > 0 && source.recent_completed >= source.recent_half_open
}

fn is_offender(policy: &Policy, source: &SourceReading, half_open: u64) -> bool {
    source.half_open > policy.source_half_open
        && source.half_open >= half_open / SOURCE_STANDS_OUT
        && !completes(source)
}

fn is_offending_prefix(policy: &Policy, observation: &Observation, prefix: &PrefixReading) -> bool {
    let stands_out =
        prefix.half_open > policy.prefix_half_open && prefix.half_open >= observation.half_open() / PREFIX_STANDS_OUT;
    if !stands_out || prefix.ended >= prefix.half_open {
        return false;
    }
    let mut of_sources: Vec<u64> = observation
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

/// The kind that makes up most of what is half open.
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
            format!("{} sources ask for many ports: {:.0} % of what is half open", scanning.len(), percent(kind))
        }
        Kind::Concentrated => format!("{} sources make up {:.0} % of what is half open", others.len(), percent(kind)),
        Kind::Prefix => format!("{} networks make up {:.0} % of what is half open", prefixes.len(), percent(kind)),
        Kind::Spoofed => format!(
            "{:.0} % of what is half open comes from nobody who stands out, of about {distinct_sources:.0} sources a second",
            percent(kind)
        ),
        Kind::Mixed => format!(
            "sources that stand out make up {:.0} %, those that scan {:.0} %, networks {:.0} %, and others {:.0} % of what is half open",
            percent(Kind::Concentrated),
            percent(Kind::Scan),
            percent(Kind::Prefix),
            percent(Kind::Spoofed)
        ),
    };
    (kind, evidence)
}

/// The kind by the kernel's rows, and by the number of sources: for what the datapath does not count, as what
/// came in by an interface that is not guarded, or segments that no TCP sends.
fn name_by_kernel(observation: &Observation) -> (Kind, String) {
    let spread = Spread::of(observation.kernel_rows.iter().map(|row| row.remote.ip()));
    let kind = match &spread {
        Spread::Random { .. } => Kind::Spoofed,
        Spread::OneNetwork { .. } => Kind::Prefix,
        Spread::FewSources { .. } => Kind::Concentrated,
        Spread::Mixed { .. } => Kind::Mixed,
        Spread::Empty | Spread::TooFew { .. } if observation.distinct_sources > FEW as f64 => Kind::Spoofed,
        Spread::Empty | Spread::TooFew { .. } => Kind::Concentrated,
    };
    (kind, format!("the kernel's half-open handshakes: {spread}; {:.0} sources a second", observation.distinct_sources))
}
