//! `GET /sources`.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use tcpguard_common::{address::Address, tracking::source::SourceEntry};
use utoipa::ToSchema;

use super::{
    Access, ApiError, ApiState,
    error::{NotReadyYet, QueryRefused},
    heavy, limit,
    model::Source,
};
use crate::{
    datapath::{DatapathError, maps::SourceMap},
    monitor::{MAX_TOP_SOURCES, Snapshot, SourceOrder},
    time::WallClock,
};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100_000;

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SourceSort)]
enum Sort {
    #[default]
    Syn,
    HalfOpen,
    Dropped,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Sort order; default `syn`.
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
    /// Maximum number of sources; default 20. With more than 256, the whole table is read.
    #[param(maximum = 100_000)]
    limit: Option<usize>,
}

/// Top sources
///
/// The counters are read from the source table on request.
#[utoipa::path(
    get, path = "/sources", tag = "reading", params(Parameters),
    responses((status = OK, body = Vec<Source>), QueryRefused, NotReadyYet)
)]
pub(super) async fn sources(
    access: Access,
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let limit = limit(parameters.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let report = state.report().await?;
    let order = match parameters.sort {
        Sort::Syn => SourceOrder::Syn,
        Sort::HalfOpen => SourceOrder::HalfOpen,
        Sort::Dropped => SourceOrder::Dropped,
    };
    // Reading the whole table takes a while.
    let permit = if limit > MAX_TOP_SOURCES { Some(state.permits.take(access).await?) } else { None };
    let drops = report.drops();
    heavy::answer(permit, move || Ok(top(&report.snapshot, &state.sources, order, limit, drops)?)).await
}

/// Returns the first `limit` sources in this order, with their present counters. Blocks are only shown if `drops`.
pub(super) fn top(
    snapshot: &Snapshot,
    table: &SourceMap,
    order: SourceOrder,
    limit: usize,
    drops: bool,
) -> Result<Vec<Source>, DatapathError> {
    let mut entries = if limit <= MAX_TOP_SOURCES {
        entries_of(snapshot.top_sources.addresses(), table)?
    } else {
        all_entries(table, order, snapshot.period, limit)?
    };
    entries.sort_by_cached_key(|(source, entry)| (Reverse(order.weight(entry, snapshot.period)), *source));
    entries.truncate(limit);
    Ok(entries
        .into_iter()
        .map(|(source, entry)| row(source, &entry, snapshot.period, &snapshot.clock, drops))
        .collect())
}

fn entries_of(sources: &[Address], table: &SourceMap) -> Result<Vec<(Address, SourceEntry)>, DatapathError> {
    let mut entries = Vec::with_capacity(sources.len());
    for source in sources {
        // A source that was evicted in the meantime is omitted.
        entries.extend(table.get(*source)?.map(|entry| (*source, entry)));
    }
    Ok(entries)
}

/// Returns the first `limit` entries of the whole table in this order, holding no more than that in memory.
fn all_entries(
    table: &SourceMap,
    order: SourceOrder,
    period: u32,
    limit: usize,
) -> Result<Vec<(Address, SourceEntry)>, DatapathError> {
    let mut leaders = BinaryHeap::with_capacity(limit + 1);
    table.for_each(|source, entry| {
        leaders.push(Reverse(Weighed { weight: order.weight(entry, period), source: *source, entry: *entry }));
        if leaders.len() > limit {
            leaders.pop();
        }
    })?;
    Ok(leaders.into_iter().map(|Reverse(leader)| (leader.source, leader.entry)).collect())
}

/// An entry, ordered by its weight.
struct Weighed {
    weight: u64,
    source: Address,
    entry: SourceEntry,
}

impl Ord for Weighed {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.weight, Reverse(self.source)).cmp(&(other.weight, Reverse(other.source)))
    }
}

impl PartialOrd for Weighed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Weighed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Weighed {}

pub(super) fn row(source: Address, entry: &SourceEntry, period: u32, clock: &WallClock, drops: bool) -> Source {
    let is_blocked = drops && entry.blocked_until > clock.jiffies();
    Source {
        source: source.to_string(),
        syn: entry.syn,
        completed: entry.completed,
        half_open: entry.half_open.count(period),
        retried: entry.retried.into(),
        resets: entry.resets.into(),
        dropped: entry.dropped,
        challenged: entry.challenged,
        proven: entry.proven_until > clock.jiffies(),
        blocked_until: is_blocked.then(|| clock.time_of(entry.blocked_until)),
        first_seen: clock.time_of(entry.first_seen),
        last_seen: clock.time_of(entry.last_seen),
    }
}
