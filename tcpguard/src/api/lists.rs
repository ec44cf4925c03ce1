//! `GET /lists`, and `POST` and `DELETE` of `/lists/allow` and `/lists/deny`.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Order,
    access::{MayChange, body},
    blocking,
    error::{ChangeRefused, NotReadyYet, QueryRefused},
    heavy::{self, Turn},
    limit,
    model::{BlockEntry, ListEntry, ListReport, Removed},
    schema::{AnyNetwork, LengthOfTime},
};
use crate::{
    enforce::Block,
    lists::{Entry, ListName, Network},
    monitor::WallClock,
};

/// More than the lists have room for.
const MOST_ENTRIES: usize = 1_000_000;

/// What is to be added to a list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    /// An address, or a network in CIDR form; one wider than /8 (IPv6: /16) must be insisted on with `force`.
    #[schema(value_type = AnyNetwork)]
    #[serde(alias = "cidr", alias = "address", alias = "prefix", alias = "source")]
    network: String,
    /// Why; 200 characters at most.
    #[serde(default)]
    #[schema(max_length = 200)]
    reason: Option<String>,
    /// How long it lasts: seconds, or a text such as "10m"; without it, until it is removed.
    #[serde(
        default,
        rename = "for",
        alias = "expires_in",
        alias = "expires_in_seconds",
        alias = "duration",
        alias = "seconds",
        alias = "ttl",
        alias = "expiry",
        alias = "expires",
        deserialize_with = "duration"
    )]
    #[schema(value_type = LengthOfTime, required = false)]
    lasts: Option<Duration>,
    /// Insists on a network so wide that it may be a mistake.
    #[serde(default)]
    force: bool,
}

#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// How many entries; all without it.
    #[param(maximum = 1_000_000)]
    limit: Option<usize>,
}

/// What a `DELETE` asks for, in its query or in its body.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// Which network, in CIDR form.
    #[param(value_type = AnyNetwork, inline)]
    #[serde(alias = "cidr", alias = "address", alias = "prefix", alias = "source")]
    network: Option<String>,
}

/// Seconds, or a text such as "10m", or a moment such as "2026-11-20T08:00:00Z".
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Typed {
        Seconds(f64),
        Text(String),
    }
    let bad = |what: String| D::Error::custom(format!("\"for\" is {what}: write seconds, or a text such as \"10m\""));
    match Option::<Typed>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Typed::Seconds(seconds)) => {
            Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| bad(seconds.to_string()))
        }
        Some(Typed::Text(text)) => {
            let until =
                |moment: Timestamp| Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default();
            let parsed = humantime_serde::re::humantime::parse_duration(&text).ok();
            parsed.or_else(|| text.parse().map(until).ok()).map(Some).ok_or_else(|| bad(format!("\"{text}\"")))
        }
    }
}

/// Who is always let in, who never, and who is blocked
#[utoipa::path(
    get, path = "/lists", tag = "lists", params(Parameters),
    responses((status = OK, body = ListReport), QueryRefused, NotReadyYet)
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    turn: Turn,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let report = state.report()?;
    let most = limit(parameters.limit, MOST_ENTRIES, MOST_ENTRIES)?;
    let lists = state.lists.clone();
    heavy::answer(Some(turn), move || {
        let (entries, clock) = (lists.entries(most), &report.snapshot.clock);
        let of = |list| entries.iter().filter(|entry| entry.list == list).map(|entry| row(entry, clock)).collect();
        let blocks = report.measures.blocks.iter().take(most);
        Ok(ListReport {
            allow: of(ListName::Allow),
            deny: of(ListName::Deny),
            blocks: blocks.map(|block| block_row(block, clock)).collect(),
        })
    })
    .await
}

/// Add a network to a list
///
/// Over the Unix socket only.
#[utoipa::path(
    post, path = "/lists/{list}", tag = "lists", params(("list" = ListName, Path, description = "allow or deny")),
    request_body = Addition, responses((status = CREATED, body = ListEntry), ChangeRefused, NotReadyYet)
)]
pub(super) async fn add(
    _: MayChange,
    State(state): State<ApiState>,
    Path(list): Path<String>,
    received: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<ListEntry>), ApiError> {
    let list = name(&list)?;
    let addition: Addition =
        serde_json::from_slice(&body(received)?).map_err(|error| ApiError::BadBody(error.to_string()))?;
    let network: Network = addition.network.parse().map_err(crate::lists::ListError::from)?;
    let clock = state.report()?.snapshot.clock;
    let lists = state.lists.clone();
    let entry = blocking(move || lists.add(list, network, addition.reason.as_deref(), addition.lasts, addition.force));
    let entry = entry.await??;
    heed_lists(&state).await;
    Ok((StatusCode::CREATED, Json(row(&entry, &clock))))
}

/// Take a network off a list
///
/// Over the Unix socket only. What a command or an SSH session added can be removed; `deny` also lifts blocks by
/// judgement within the network.
#[utoipa::path(
    delete, path = "/lists/{list}", tag = "lists",
    params(("list" = ListName, Path, description = "allow or deny"), Removal),
    responses((status = OK, body = Removed), ChangeRefused, NotReadyYet)
)]
pub(super) async fn remove(
    _: MayChange,
    State(state): State<ApiState>,
    Path(list): Path<String>,
    query: Result<Query<Removal>, QueryRejection>,
    received: Result<Bytes, BytesRejection>,
) -> Result<Json<Removed>, ApiError> {
    let list = name(&list)?;
    let Query(mut removal) = query?;
    let bytes = body(received)?;
    if removal.network.is_none() && !bytes.is_empty() {
        removal = serde_json::from_slice(&bytes).map_err(|error| ApiError::BadBody(error.to_string()))?;
    }
    let text =
        removal.network.ok_or_else(|| ApiError::BadBody("which network? as in ?network=198.51.100.0/24".to_owned()))?;
    let network: Network = text.parse().map_err(crate::lists::ListError::from)?;
    let lifted = match list {
        ListName::Deny => state.order(|lifted| Order::Lift { network, lifted }).await?,
        ListName::Allow => 0,
    };
    let lists = state.lists.clone();
    blocking(move || lists.remove(list, network, lifted)).await??;
    heed_lists(&state).await;
    Ok(Json(Removed { network: network.to_string(), blocks_lifted: lifted }))
}

/// What is answered for is in force: whoever asked may rely on it with the next packet. A daemon that is about to end
/// leaves it to the next one.
async fn heed_lists(state: &ApiState) {
    state.order(|heeded| Order::HeedLists { heeded }).await.unwrap_or_default();
}

fn name(text: &str) -> Result<ListName, ApiError> {
    match text {
        "allow" => Ok(ListName::Allow),
        "deny" => Ok(ListName::Deny),
        _ => Err(ApiError::NoSuchList(text.chars().take(64).collect())),
    }
}

pub(super) fn block_row(block: &Block, clock: &WallClock) -> BlockEntry {
    BlockEntry {
        network: block.network.to_string(),
        expires: clock.now().saturating_add(block.left).unwrap_or(clock.now()),
        times: block.times,
    }
}

pub(super) fn row(entry: &Entry, clock: &WallClock) -> ListEntry {
    ListEntry {
        network: entry.network.to_string(),
        list: entry.list,
        origin: entry.origin.clone(),
        reason: entry.reason.clone(),
        expires: entry.until.map(|until| clock.time_of(until)),
    }
}
