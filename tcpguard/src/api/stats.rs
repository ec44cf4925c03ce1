//! `GET /stats`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use tcpguard_common::abi::counters::{Counted, Counter, DropReason};
use tokio::sync::Mutex;

use super::{
    About, ApiError, ApiState,
    error::NotReadyYet,
    model::{self, Stats},
    sources,
};
use crate::{
    config::Protect,
    cost::Cost,
    daemon::TickReport,
    datapath::{Feature, Features, MapMemory, MapSize, ProgramCost, maps},
    detect::{Kind, Phase, Scope},
    interfaces::InterfaceStatus,
    kernel::TcpExt,
    monitor::{HalfOpenCounts, PortSnapshot, PrefixSnapshot, SourceOrder},
    response::challenge::ChallengeStatus,
};

const TOP: usize = 20;

/// `/stats` of one report, shared by all requests until the next report.
pub(super) struct Rendered {
    pub stats: Stats,
    pub json: Bytes,
}

/// The latest rendered `/stats`. Clones share it.
#[derive(Clone, Default)]
pub struct StatsCache(Arc<Mutex<Option<Cached>>>);

struct Cached {
    of: Arc<TickReport>,
    rendered: Arc<Rendered>,
}

impl ApiState {
    /// Returns `/stats` of the latest report.
    pub(super) async fn stats(&self) -> Result<Arc<Rendered>, ApiError> {
        let report = self.report().await?;
        let mut last = self.stats_cache.0.lock().await;
        if let Some(cached) = &*last
            && Arc::ptr_eq(&cached.of, &report)
        {
            return Ok(Arc::clone(&cached.rendered));
        }
        let rendered = Arc::new(render(&report, self)?);
        *last = Some(Cached { of: report, rendered: Arc::clone(&rendered) });
        Ok(rendered)
    }
}

fn render(report: &TickReport, state: &ApiState) -> Result<Rendered, ApiError> {
    let top = sources::top(&report.snapshot, &state.sources, SourceOrder::Syn, TOP, report.drops())?;
    let stats = Stats { sources: top, ..assemble(report, &state.about) };
    let json = serde_json::to_vec(&stats).map_err(ApiError::Unwritable)?.into();
    Ok(Rendered { stats, json })
}

/// State and counters
///
/// One snapshot, at most a fifth of a second old. In calm one is taken once a second and for each request, otherwise ten
/// times a second.
#[utoipa::path(get, path = "/stats", tag = "reading", responses((status = OK, body = Stats), NotReadyYet))]
pub(super) async fn stats(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let json = state.stats().await?.json.clone();
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn assemble(report: &TickReport, about: &About) -> Stats {
    let (snapshot, thresholds) = (&report.snapshot, &report.config.thresholds);
    Stats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: about.started.elapsed().as_secs(),
        time: snapshot.clock.now(),
        state: report.state.phase().name().to_owned(),
        state_since: report.state_since,
        attack: attack(report),
        syn_attack_protect: report.config.syn_attack_protect,
        services: services(report),
        protected: protected(report),
        interfaces: snapshot.interfaces.iter().map(interface).collect(),
        totals: (&snapshot.totals).into(),
        drops: drops(&snapshot.totals, DropReason::counter),
        would_drop: drops(&snapshot.totals, DropReason::would_counter),
        unread: unread(&snapshot.totals),
        rates: model::Rates {
            packets_per_second: snapshot.rates.packets,
            syn_per_second: snapshot.rates.syn,
            completed_per_second: snapshot.rates.completed,
            retried_per_second: snapshot.rates.retried,
            rst_per_second: snapshot.rates.rst,
            dropped_per_second: snapshot.rates.dropped,
            challenged_per_second: snapshot.rates.challenged,
            distinct_sources_per_second: snapshot.rates.distinct_sources.round(),
        },
        half_open: half_open(&snapshot.half_open),
        refused: snapshot.refused,
        thresholds: model::Thresholds {
            max_half_open: thresholds.max_half_open,
            max_half_open_retried: thresholds.max_half_open_retried,
            max_ports_exhausted: thresholds.max_ports_exhausted,
            max_stray: thresholds.max_stray,
        },
        ports: snapshot.ports.iter().map(|port| self::port(port, &snapshot.pressure.slow_ports)).collect(),
        sources: Vec::new(),
        prefixes: snapshot.prefixes.iter().map(|snapshot_prefix| prefix(snapshot_prefix, report)).collect(),
        tracking: model::Tracking {
            sources: snapshot.tracked_sources,
            max_sources: report.config.limits.max_sources,
            admitted: snapshot.totals.get(Counter::SourcesAdmitted),
            syn_untracked: snapshot.totals.get(Counter::SynUntracked),
            completed_untracked: snapshot.totals.get(Counter::CompletedUntracked),
            events_lost: snapshot.totals.get(Counter::EventsLost),
        },
        features: features(&about.features, snapshot.kernel_problem.as_deref(), report.behind.as_ref()),
        tcp_ext: tcp_ext(&snapshot.tcp_ext),
        measures: measures(report),
        memory: memory(&about.memory),
        cost: cost(&report.cost),
    }
}

fn memory(memory: &MapMemory) -> model::Memory {
    let item = |size: &MapSize| model::MemoryItem { item: size.map.to_lowercase(), bytes: size.bytes };
    model::Memory { limit_bytes: memory.limit, bytes: memory.bytes(), items: memory.maps.iter().map(item).collect() }
}

fn cost(cost: &Cost) -> model::Cost {
    let program = |program: &ProgramCost| model::Program {
        name: program.name.to_owned(),
        runs: program.runs,
        run_seconds: program.run_time.as_secs_f64(),
    };
    model::Cost {
        cpu_seconds: cost.cpu.as_secs_f64(),
        parts: model::CostParts {
            tick_seconds: cost.parts.tick.as_secs_f64(),
            rows_seconds: cost.parts.rows.as_secs_f64(),
            maps_seconds: cost.parts.maps.as_secs_f64(),
            http_seconds: cost.parts.http.as_secs_f64(),
        },
        resident_bytes: cost.resident_bytes,
        ticks: cost.ticks,
        last_tick_seconds: cost.last_tick.as_secs_f64(),
        longest_tick_delay_seconds: cost.longest_delay.as_secs_f64(),
        programs: cost.programs.as_ref().map(|programs| programs.iter().map(program).collect()),
    }
}

fn attack(report: &TickReport) -> Option<model::Attack> {
    let since = report.attack_since?;
    let mut evidence = Vec::new();
    for (scope, state) in report.state.scopes() {
        let of = match scope {
            Scope::Host => String::new(),
            Scope::Service(index) => {
                report.config.services.get(index).map_or_else(String::new, |service| format!("{}: ", service.name()))
            }
            Scope::Protected(index) => {
                report.config.protected.get(index).map_or_else(String::new, |section| format!("{}: ", section.name))
            }
        };
        evidence.extend(state.evidence.iter().map(|evidence| format!("{of}{evidence}")));
    }
    evidence.extend(report.state.kind_evidence.clone());
    evidence.extend(report.state.signs.clone());
    let kind = report.state.kind.map_or("mixed", Kind::name);
    Some(model::Attack { since, kind: kind.to_owned(), evidence })
}

fn services(report: &TickReport) -> Vec<model::Service> {
    let states = report.config.services.iter().zip(&report.state.services).zip(&report.snapshot.pressure.services);
    states
        .map(|((service, state), readings)| model::Service {
            ports: service.ports.clone(),
            state: state.phase.name().to_owned(),
            half_open: half_open(&readings.half_open),
            max_half_open: service.max_half_open,
        })
        .collect()
}

fn protected(report: &TickReport) -> Vec<model::Protected> {
    let (pressure, challenge) = (&report.snapshot.pressure, &report.measures.challenge);
    let mut ports = report.snapshot.protected.iter().zip(&pressure.protected_half_open);
    let sections = report.config.protected.iter().enumerate();
    let describe = |(index, section): (usize, &Protect)| {
        let status = challenge.protected.get(index).cloned().unwrap_or_default();
        let port = |(port, (account, half_open)): (&u16, (&PortSnapshot, &u64))| model::ProtectedPort {
            port: *port,
            syn: account.syn,
            half_open: *half_open,
            completed: account.completed,
            retried: account.retried,
            challenged: status.challenged.contains(port),
        };
        let ports = section.ports.iter().zip(&mut ports).map(port).collect();
        model::Protected {
            name: section.name.clone(),
            networks: section.networks.iter().map(ToString::to_string).collect(),
            state: report.state.protected.get(index).map_or(Phase::Calm, |scope| scope.phase).name().to_owned(),
            half_open: pressure.protected.get(index).map_or(0, |readings| readings.half_open.datapath),
            max_half_open: section.max_half_open,
            return_path: status.return_path.name().to_owned(),
            method: status.method.map(|method| method.name().to_owned()),
            ports,
        }
    };
    sections.map(describe).collect()
}

const fn half_open(counts: &HalfOpenCounts) -> model::HalfOpen {
    model::HalfOpen { kernel: counts.kernel, kernel_retried: counts.kernel_retried, datapath: counts.datapath }
}

fn measures(report: &TickReport) -> model::Measures {
    let measures = &report.measures;
    let settings = measures.settings.iter().map(|setting| model::Setting {
        name: setting.name.clone(),
        value: setting.value.clone(),
        original: setting.original.clone(),
    });
    model::Measures {
        kernel_settings: settings.collect(),
        blocks: measures.blocks.len() as u64,
        signatures: measures.signatures.clone(),
        advice: measures.advice.iter().map(|advice| advice.text.clone()).collect(),
        challenge: challenge(&measures.challenge, &report.snapshot.totals),
    }
}

fn challenge(status: &ChallengeStatus, totals: &maps::Totals) -> model::Challenge {
    let ports = status.ports.iter().map(|port| model::ChallengedPort {
        port: port.port,
        method: port.method.name().to_owned(),
        seconds: port.lasts.as_secs(),
        guarded: port.is_guarded,
    });
    let left_alone = status.left_alone.iter();
    model::Challenge {
        ports: ports.collect(),
        left_alone: left_alone
            .map(|(port, reason)| model::PortLeftAlone { port: *port, reason: reason.clone() })
            .collect(),
        no_cookies: status.no_cookies.clone(),
        cookies_good_for_seconds: status.cookies_good_for.map(|left| left.as_secs()),
        cookies_returned: totals.get(Counter::CookiesReturned),
        failed: totals.get(Counter::ChallengeFailed),
    }
}

fn drops(totals: &maps::Totals, counter: impl Fn(DropReason) -> Counter) -> BTreeMap<String, u64> {
    DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), totals.get(counter(*reason)))).collect()
}

fn interface(status: &InterfaceStatus) -> model::Interface {
    model::Interface {
        name: status.name.clone(),
        xdp_mode: status.mode.unwrap_or("detached").to_owned(),
        reason: status.reason.clone(),
    }
}

fn unread(totals: &maps::Totals) -> BTreeMap<String, u64> {
    let unparsed = Counter::ALL.iter().filter(|counter| counter.counted() == Counted::Unparsed);
    unparsed.map(|counter| (counter.name().to_owned(), totals.get(*counter))).collect()
}

fn port(port: &PortSnapshot, slow: &[u16]) -> model::Port {
    model::Port {
        port: port.port,
        syn: port.syn,
        half_open: port.half_open,
        retried: port.retried,
        challenged: port.challenged,
        completed: port.completed,
        redirected: port.is_redirected,
        backlog: port.backlog,
        accept_queue: port.accept_queue,
        slow_application: slow.contains(&port.port),
    }
}

fn prefix(prefix: &PrefixSnapshot, report: &TickReport) -> model::Prefix {
    let (limits, snapshot) = (&report.config.source, &report.snapshot);
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

fn features(
    features: &Features,
    kernel_problem: Option<&str>,
    behind: Option<&Feature>,
) -> BTreeMap<String, model::Feature> {
    let describe =
        |problem: Option<&str>| model::Feature { available: problem.is_none(), reason: problem.map(str::to_owned) };
    let behind = behind.map(|behind| ("behind".to_owned(), describe(behind.problem())));
    let known = [
        ("completions".to_owned(), describe(features.completions.problem())),
        ("retries".to_owned(), describe(features.retries.problem())),
        ("cookies".to_owned(), describe(features.cookies.problem())),
        ("kernel_view".to_owned(), describe(kernel_problem)),
    ];
    known.into_iter().chain(behind).collect()
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
