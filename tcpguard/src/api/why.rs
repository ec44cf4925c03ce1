//! `GET /sources/{address}`: everything known about one source, with a summary in words and the commands that let it
//! in.

use std::net::IpAddr;

use axum::{
    Json,
    extract::{Path, State},
};
use tcpguard_common::address::Address;

use super::{
    ApiError, ApiState, blocking,
    error::{NotReadyYet, QueryRefused},
    lists,
    model::{BlockEntry, ListEntry, Source, Why},
    schema::AnyAddress,
    sources,
};
use crate::{
    config::{Protect, SourceLimits},
    daemon::TickReport,
    events::Event,
    lists::{Entry, ListName},
    network::Network,
};

/// Number of events shown; the latest ones.
const MAX_EVENTS: usize = 20;

/// Everything known about one source
///
/// Its entry in the source table, the list entries and blocks that cover it, its half-open handshakes in the kernel
/// and its events; with a summary in words and the commands that let it in.
#[utoipa::path(
    get, path = "/sources/{address}", tag = "reading",
    params(("address" = inline(AnyAddress), Path, description = "An IPv4 or IPv6 address", example = "198.51.100.7")),
    responses((status = OK, body = Why), QueryRefused, NotReadyYet)
)]
pub(super) async fn why(State(state): State<ApiState>, Path(text): Path<String>) -> Result<Json<Why>, ApiError> {
    let address: IpAddr = text.trim().parse().map_err(|_| ApiError::NotAnAddress(text.chars().take(64).collect()))?;
    let report = state.report().await?;
    Ok(Json(blocking(move || gather(address, &report, &state)).await??))
}

fn gather(address: IpAddr, report: &TickReport, state: &ApiState) -> Result<Why, ApiError> {
    let address = address.to_canonical();
    let (snapshot, network) = (&report.snapshot, Network::of(Address::from(address)));
    let drops = report.drops();
    let entry = state.sources.get(address.into())?;
    let source = entry.map(|entry| sources::row(address.into(), &entry, snapshot.period, &snapshot.clock, drops));
    let listed = state.lists.covering(network);
    let blocks: Vec<BlockEntry> = report
        .measures
        .blocks
        .iter()
        .filter(|block| block.network.contains(network))
        .map(|block| lists::block_row(block, &snapshot.clock))
        .collect();
    let rows = &snapshot.kernel_half_open.rows;
    let half_open = rows.iter().filter(|row| row.remote.ip().to_canonical() == address).count() as u64;
    let events = events_about(network, state);
    let limits = &report.config.source;
    let facts = Facts {
        address,
        source: source.as_ref(),
        listed: &listed,
        blocks: &blocks,
        half_open,
        drops,
        limits,
        signatures: &report.measures.signatures,
        protected: report.config.protected_section(address),
    };
    Ok(Why {
        summary: facts.summary(),
        how_to_let_in: facts.how_to_let_in(),
        grade: facts.grade().map(|grade| grade.name().to_owned()),
        address: address.to_string(),
        lists: listed.iter().map(|entry| lists::row(entry, &snapshot.clock)).collect::<Vec<ListEntry>>(),
        half_open_in_kernel: half_open,
        source,
        blocks,
        events,
    })
}

/// Returns the latest events about a source or a network that contains it; the oldest first.
fn events_about(network: Network, state: &ApiState) -> Vec<Event> {
    let is_about = |event: &Event| {
        let subject = event.subject.as_deref().and_then(|subject| subject.parse::<Network>().ok());
        subject.is_some_and(|subject| subject.contains(network))
    };
    let events = state.events.list(None, usize::MAX);
    let mut events: Vec<Event> =
        events.iter().rev().filter(|event| is_about(event)).take(MAX_EVENTS).map(|event| Event::clone(event)).collect();
    events.reverse();
    events
}

/// How easily the evidence about a source can be forged; see docs/judgement.md.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// Whoever sends packets with the source's address produces it.
    Forgeable,
    /// The source received a SYN-ACK and acknowledged it.
    Completed,
    /// An operator said so.
    Operator,
}

impl Grade {
    const fn name(self) -> &'static str {
        match self {
            Self::Forgeable => "forgeable",
            Self::Completed => "completed",
            Self::Operator => "operator",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::Forgeable => {
                "Grade of the evidence: forgeable. Anybody can send SYNs with its address, so its SYNs are never refused for \
                 good: retransmits pass, within its rate limit."
            }
            Self::Completed => "Grade of the evidence: completed. It completed a handshake, which cannot be forged.",
            Self::Operator => "Grade of the evidence: operator. A list entry decides.",
        }
    }
}

/// What is known about a source.
struct Facts<'a> {
    address: IpAddr,
    source: Option<&'a Source>,
    listed: &'a [Entry],
    blocks: &'a [BlockEntry],
    half_open: u64,
    drops: bool,
    limits: &'a SourceLimits,
    signatures: &'a [String],
    /// The section of protected networks that the address belongs to.
    protected: Option<&'a Protect>,
}

impl Facts<'_> {
    fn allowed(&self) -> Option<&Entry> {
        self.listed.iter().find(|entry| entry.list == ListName::Allow)
    }

    fn denied(&self) -> impl Iterator<Item = &Entry> {
        self.listed.iter().filter(|entry| entry.list == ListName::Deny)
    }

    /// Returns whether the source is exempt from challenges; see `SourceEntry::is_proven`.
    fn is_proven(&self) -> bool {
        self.source.is_some_and(|source| source.proven && source.half_open <= self.limits.max_half_open.into())
    }

    /// Returns whether some of its SYNs were dropped. Only meaningful if no deny entry or block applies now.
    fn was_held_back(&self) -> bool {
        self.source.is_some_and(|source| source.dropped > 0)
    }

    /// Returns the blocks that apply to the source: a block of a prefix does not apply to a source that completed a
    /// handshake.
    fn effective_blocks(&self) -> impl Iterator<Item = &BlockEntry> {
        let (own, is_exempt) = (self.address.to_string(), self.source.is_some_and(|source| source.completed > 0));
        self.blocks.iter().filter(move |block| block.network == own || !is_exempt)
    }

    /// Returns the grade of the evidence that decides, in the order of [`Facts::verdict`].
    fn grade(&self) -> Option<Grade> {
        if !self.listed.is_empty() {
            Some(Grade::Operator)
        } else if self.effective_blocks().next().is_some() {
            Some(Grade::Forgeable)
        } else {
            self.source.map(|source| if source.completed > 0 { Grade::Completed } else { Grade::Forgeable })
        }
    }

    fn summary(&self) -> Vec<String> {
        let mut lines = vec![self.verdict()];
        lines.extend(self.protected.map(|section| {
            format!(
                "It is behind this host, in the protected network {}: SYNs to it at the ports of that section are judged and \
                 challenged here.",
                section.name
            )
        }));
        lines.extend(self.grade().map(|grade| grade.explanation().to_owned()));
        match self.source {
            None => lines.push("It has no entry in the source table: it sent no SYN recently, or only SYNs that were dropped or challenged.".to_owned()),
            Some(source) => {
                lines.push(format!(
                    "It sent {} SYNs, completed {} handshakes, and has {} half open; {} of its SYNs were dropped and {} challenged.",
                    source.syn, source.completed, source.half_open, source.dropped, source.challenged
                ));
                lines.push(format!("First seen {:.0}, last seen {:.0}.", source.first_seen, source.last_seen));
            }
        }
        if self.allowed().is_none() {
            let are = if self.drops { "are" } else { "would be" };
            lines.extend(self.signatures.iter().map(|signature| {
                format!("SYNs that look like the flood in progress {are} dropped, unless their source completes handshakes here: {signature}.")
            }));
        }
        if self.half_open > 0 {
            lines.push(format!("The kernel has {} of its handshakes in SYN_RECV.", self.half_open));
        }
        for entry in self.listed {
            let reason = entry.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            lines.push(format!(
                "{} is on the {} list (origin: {}){reason}.",
                entry.network,
                entry.list.name(),
                entry.origin
            ));
        }
        for block in self.blocks {
            lines.push(format!(
                "{} is blocked until {:.0} (block number {}).",
                block.network, block.expires, block.times
            ));
        }
        lines
    }

    fn verdict(&self) -> String {
        if let Some(entry) = self.allowed() {
            return format!("Its SYNs always pass: {} is on the allow list.", entry.network);
        }
        let denied =
            self.denied().next().map(|entry| ("Its SYNs are", entry.network.to_string(), "is on the deny list"));
        let blocked = || {
            let block = self.effective_blocks().next()?;
            Some(("The first SYN of each of its connections is", block.network.clone(), "is blocked"))
        };
        match denied.or_else(blocked) {
            Some((which, network, reason)) if self.drops => format!("{which} dropped: {network} {reason}."),
            Some((_, network, reason)) => {
                format!("Its SYNs would be dropped ({network} {reason}), but syn_attack_protect is not 2.")
            }
            None if self.was_held_back() => format!(
                "Its SYNs pass, up to {} SYNs a second (source.syn_per_second). Some were dropped because of that limit or of a \
                 block that has ended.",
                self.limits.syn_per_second
            ),
            None if self.is_proven() => {
                "Its SYNs pass and are not challenged: it completed a handshake of late.".to_owned()
            }
            None => "Its SYNs pass; on challenged ports they are challenged first.".to_owned(),
        }
    }

    fn how_to_let_in(&self) -> Vec<String> {
        if self.allowed().is_some() {
            return Vec::new();
        }
        let denied = self.denied().filter(|entry| entry.origin == "manual").map(|entry| entry.network.to_string());
        let blocked = self.effective_blocks().map(|block| block.network.clone());
        let mut commands: Vec<String> =
            denied.chain(blocked).map(|network| format!("tcpguard unblock {network}")).collect();
        commands.dedup();
        if !commands.is_empty() || self.denied().next().is_some() || self.was_held_back() {
            commands.push(format!("tcpguard allow {}", self.address));
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn entry(network: &str, list: ListName, origin: &str) -> Entry {
        Entry {
            network: network.parse().expect("a network"),
            list,
            origin: origin.to_owned(),
            reason: None,
            until: None,
        }
    }

    fn block(network: &str) -> BlockEntry {
        BlockEntry { network: network.to_owned(), expires: jiff::Timestamp::UNIX_EPOCH, times: 1 }
    }

    fn source(completed: u64) -> Source {
        let text = include_str!("sample.json");
        let stats: super::super::model::Stats = serde_json::from_str(text).expect("the sample");
        Source {
            completed,
            proven: completed > 0,
            dropped: 0,
            half_open: 0,
            ..stats.sources.into_iter().next().expect("a source")
        }
    }

    fn facts<'a>(listed: &'a [Entry], blocks: &'a [BlockEntry], source: Option<&'a Source>) -> Facts<'a> {
        static DEFAULTS: LazyLock<SourceLimits> = LazyLock::new(|| crate::config::Config::default().source);
        let address = "198.51.100.7".parse().expect("an address");
        Facts {
            address,
            source,
            listed,
            blocks,
            half_open: 0,
            drops: true,
            limits: &DEFAULTS,
            signatures: &[],
            protected: None,
        }
    }

    #[test]
    fn the_grade_is_that_of_the_evidence_that_decides() {
        let (stranger, client) = (source(0), source(3));
        let grade =
            |listed: &[Entry], blocks: &[BlockEntry], source| facts(listed, blocks, source).grade().map(Grade::name);
        assert_eq!(grade(&[], &[], None), None);
        assert_eq!(grade(&[], &[], Some(&stranger)), Some("forgeable"));
        assert_eq!(grade(&[], &[], Some(&client)), Some("completed"));
        assert_eq!(
            grade(&[], &[block("198.51.100.0/24")], Some(&client)),
            Some("completed"),
            "the block is not for it"
        );
        assert_eq!(grade(&[], &[block("198.51.100.7")], Some(&client)), Some("forgeable"));
        let denied = [entry("198.51.100.0/24", ListName::Deny, "manual")];
        assert_eq!(grade(&denied, &[block("198.51.100.7")], None), Some("operator"));
    }

    #[test]
    fn who_sends_too_much_is_told_of_the_limit() {
        let busy = Source { dropped: 7, ..source(3) };
        let facts = facts(&[], &[], Some(&busy));
        assert!(facts.verdict().contains("up to 2000 SYNs a second"), "{}", facts.verdict());
        assert_eq!(facts.how_to_let_in(), ["tcpguard allow 198.51.100.7"]);
    }

    #[test]
    fn servers_behind_this_host_are_named() {
        let text = "[[protect]]\nname = \"all\"\nnetworks = [\"198.51.100.0/22\"]\nports = [443]\n\
                    [[protect]]\nname = \"shop\"\nnetworks = [\"198.51.100.0/24\"]\nports = [80]\n";
        let config = crate::config::Config::parse(text, "x").expect("a configuration");
        let section = |address: &str| {
            config.protected_section(address.parse().expect("an address")).map(|found| found.name.as_str())
        };
        assert_eq!(section("198.51.100.7"), Some("shop"));
        assert_eq!(section("198.51.101.7"), Some("all"));
        assert_eq!(section("198.51.104.7"), None);
        let section = config.protected_section("198.51.100.7".parse().expect("an address"));
        let summary = Facts { protected: section, ..facts(&[], &[], None) }.summary();
        assert!(summary.iter().any(|line| line.contains("protected network shop")), "{summary:?}");
        assert!(!facts(&[], &[], None).summary().iter().any(|line| line.contains("protected")));
    }

    #[test]
    fn a_proven_source_with_too_much_half_open_has_to_prove_itself_again() {
        for (half_open, word) in [(64, "not challenged"), (65, "challenged first")] {
            let client = Source { half_open, ..source(3) };
            let verdict = facts(&[], &[], Some(&client)).verdict();
            assert!(verdict.contains(word), "{half_open}: {verdict}");
        }
    }

    #[test]
    fn whoever_is_allowed_is_let_in_whatever_else_is_said() {
        let listed = [entry("198.51.0.0/16", ListName::Allow, "ssh"), entry("198.51.100.7", ListName::Deny, "manual")];
        let blocks = [block("198.51.100.7")];
        let facts = facts(&listed, &blocks, None);
        assert!(facts.verdict().starts_with("Its SYNs always pass"), "{}", facts.verdict());
        assert!(facts.how_to_let_in().is_empty());
    }

    #[test]
    fn each_obstacle_has_its_way_around() {
        let manual = [entry("198.51.100.0/24", ListName::Deny, "manual")];
        let commands = facts(&manual, &[], None).how_to_let_in();
        assert_eq!(commands, ["tcpguard unblock 198.51.100.0/24", "tcpguard allow 198.51.100.7"]);
        let file = [entry("198.51.100.0/24", ListName::Deny, "file /etc/deny")];
        assert_eq!(facts(&file, &[], None).how_to_let_in(), ["tcpguard allow 198.51.100.7"]);
        let blocks = [block("198.51.100.7")];
        let blocked = facts(&[], &blocks, None);
        assert!(blocked.verdict().contains("dropped: 198.51.100.7 is blocked"));
        assert_eq!(blocked.how_to_let_in()[0], "tcpguard unblock 198.51.100.7");
    }

    #[test]
    fn who_has_proved_itself_does_not_answer_for_its_network() {
        let blocks = [block("198.51.100.0/24")];
        let (stranger, client) = (source(0), source(3));
        assert!(facts(&[], &blocks, Some(&stranger)).verdict().contains("dropped"));
        let facts = facts(&[], &blocks, Some(&client));
        assert!(facts.verdict().starts_with("Its SYNs pass"), "{}", facts.verdict());
        assert!(facts.how_to_let_in().is_empty());
    }

    #[test]
    fn where_nothing_is_dropped_that_is_said() {
        let blocks = [block("198.51.100.7")];
        let facts = Facts { drops: false, ..facts(&[], &blocks, None) };
        assert!(facts.verdict().contains("would be dropped"));
    }
}
