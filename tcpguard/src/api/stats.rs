//! `GET /stats`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use ipnet::IpNet;
use tcpguard_common::{counters::Counter, packet::Unread};

use super::{
    About, ApiError, ApiState,
    model::{self, Stats},
    sources,
};
use crate::{
    datapath::{Features, maps},
    interfaces::InterfaceStatus,
    kernel::TcpExt,
    monitor::{PortSnapshot, PrefixSnapshot, Snapshot, SourceOrder},
};

const TOP: usize = 20;

pub(super) async fn stats(State(state): State<ApiState>) -> Result<Json<Stats>, ApiError> {
    let snapshot = state.snapshot()?;
    let top = sources::top(&snapshot, &state.sources, SourceOrder::Syn, TOP)?;
    Ok(Json(Stats { sources: top, ..assemble(&snapshot, &state.about) }))
}

fn assemble(snapshot: &Snapshot, about: &About) -> Stats {
    let thresholds = &about.config.thresholds;
    Stats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: about.started.elapsed().as_secs(),
        time: snapshot.clock.now(),
        state: "calm".to_owned(),
        attack: None,
        interfaces: snapshot.interfaces.iter().map(interface).collect(),
        totals: totals(&snapshot.totals),
        drops: BTreeMap::new(),
        unread: unread(&snapshot.totals),
        rates: model::Rates {
            packets_per_second: snapshot.rates.packets,
            syn_per_second: snapshot.rates.syn,
            completed_per_second: snapshot.rates.completed,
            retried_per_second: snapshot.rates.retried,
            rst_per_second: snapshot.rates.rst,
            distinct_sources_per_second: snapshot.rates.distinct_sources.round(),
        },
        half_open: model::HalfOpen {
            kernel: snapshot.half_open.kernel,
            kernel_retried: snapshot.half_open.kernel_retried,
            datapath: snapshot.half_open.datapath,
        },
        refused: snapshot.refused,
        thresholds: model::Thresholds {
            max_half_open: thresholds.max_half_open,
            max_half_open_retried: thresholds.max_half_open_retried,
            max_ports_exhausted: thresholds.max_ports_exhausted,
        },
        ports: snapshot.ports.iter().map(port).collect(),
        sources: Vec::new(),
        prefixes: snapshot.prefixes.iter().map(|snapshot_prefix| prefix(snapshot_prefix, snapshot, about)).collect(),
        tracking: model::Tracking {
            sources: snapshot.tracked_sources,
            max_sources: about.config.limits.max_sources,
            admitted: snapshot.totals.get(Counter::SourcesAdmitted),
            syn_untracked: snapshot.totals.get(Counter::SynUntracked),
            completed_untracked: snapshot.totals.get(Counter::CompletedUntracked),
            events_lost: snapshot.totals.get(Counter::EventsLost),
        },
        features: features(&about.features, snapshot.kernel_problem.as_deref()),
        tcp_ext: tcp_ext(&snapshot.tcp_ext),
    }
}

fn interface(status: &InterfaceStatus) -> model::Interface {
    model::Interface {
        name: status.name.clone(),
        xdp_mode: status.mode.unwrap_or("detached").to_owned(),
        reason: status.reason.clone(),
    }
}

fn totals(totals: &maps::Totals) -> model::Totals {
    let packets = totals.get(Counter::Packets);
    model::Totals {
        packets,
        syn: totals.syn(),
        syn_ack: totals.get(Counter::SynAck),
        ack: totals.get(Counter::Ack),
        rst: totals.get(Counter::Rst),
        bad_flags: totals.get(Counter::BadFlags),
        passed: packets,
        dropped: 0,
        challenged: 0,
        completed: totals.get(Counter::Completed),
        retried: totals.get(Counter::Retried),
        syn_repeated: totals.get(Counter::SynRepeated),
        syn_with_payload: totals.get(Counter::SynWithPayload),
        handshakes_reset: totals.get(Counter::HandshakesReset),
    }
}

fn unread(totals: &maps::Totals) -> BTreeMap<String, u64> {
    Unread::ALL.into_iter().map(Counter::from).map(|counter| (counter.name().to_owned(), totals.get(counter))).collect()
}

const fn port(port: &PortSnapshot) -> model::Port {
    model::Port {
        port: port.port,
        syn: port.syn,
        half_open: port.half_open,
        retried: port.retried,
        completed: port.completed,
        backlog: port.backlog,
        accept_queue: port.accept_queue,
    }
}

fn prefix(prefix: &PrefixSnapshot, snapshot: &Snapshot, about: &About) -> model::Prefix {
    let limits = &about.config.source;
    let length = if prefix.network.is_ipv4() { limits.prefix_v4 } else { limits.prefix_v6 };
    let network = IpNet::new(prefix.network.into(), length)
        .map_or_else(|_| prefix.network.to_string(), |network| network.to_string());
    model::Prefix {
        prefix: network,
        syn: prefix.account.syn,
        ended: prefix.account.ended,
        last_seen: snapshot.clock.time_of(prefix.account.last_seen),
    }
}

fn features(features: &Features, kernel_problem: Option<&str>) -> BTreeMap<String, model::Feature> {
    let describe =
        |problem: Option<&str>| model::Feature { available: problem.is_none(), reason: problem.map(str::to_owned) };
    BTreeMap::from([
        ("completions".to_owned(), describe(features.completions.problem())),
        ("retries".to_owned(), describe(features.retries.problem())),
        ("kernel_view".to_owned(), describe(kernel_problem)),
    ])
}

fn tcp_ext(counters: &TcpExt) -> BTreeMap<String, u64> {
    BTreeMap::from([
        ("listen_overflows".to_owned(), counters.listen_overflows),
        ("listen_drops".to_owned(), counters.listen_drops),
        ("request_queue_full_drop".to_owned(), counters.request_queue_full_drop),
        ("request_queue_full_cookies".to_owned(), counters.request_queue_full_cookies),
        ("syncookies_sent".to_owned(), counters.syncookies_sent),
        ("syncookies_received".to_owned(), counters.syncookies_received),
        ("syncookies_failed".to_owned(), counters.syncookies_failed),
    ])
}
