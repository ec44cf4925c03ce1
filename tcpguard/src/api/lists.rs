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
    ApiError, ApiState,
    access::{MayChange, body},
    blocking,
    error::{ChangeRefused, NotReadyYet, QueryRefused},
    heavy::{self, Permit},
    limit,
    model::{BlockEntry, ListEntry, ListReport, Removed},
    schema::{AnyNetwork, LengthOfTime},
};
use crate::{
    daemon::command::Command,
    lists::{Entry, ListName},
    network::Network,
    response::Block,
    time::WallClock,
};

/// More entries than the lists have room for.
const MAX_ENTRIES: usize = 1_000_000;

/// An entry to add to a list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    /// An address, or a network in CIDR notation. A network wider than /8 (IPv6: /16) needs `force`.
    #[schema(value_type = AnyNetwork)]
    #[serde(alias = "cidr", alias = "address", alias = "prefix", alias = "source")]
    network: String,
    /// The reason; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    reason: Option<String>,
    /// Lifetime of the entry, in seconds or as a text such as "10m". Without it, the entry stays until it is removed.
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
    /// Accepts a network so wide that it may be a mistake.
    #[serde(default)]
    force: bool,
}

#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Maximum number of entries; default all.
    #[param(maximum = 1_000_000)]
    limit: Option<usize>,
}

/// The arguments of a `DELETE`, from its query or its body.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// The network, in CIDR notation.
    #[param(value_type = AnyNetwork, inline)]
    #[serde(alias = "cidr", alias = "address", alias = "prefix", alias = "source")]
    network: Option<String>,
}

/// Parses seconds, a text such as "10m", or a point in time such as "2026-11-20T08:00:00Z".
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

/// Allow list, deny list and blocks
#[utoipa::path(
    get, path = "/lists", tag = "lists", params(Parameters),
    responses((status = OK, body = ListReport), QueryRefused, NotReadyYet)
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    permit: Permit,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let report = state.report().await?;
    let most = limit(parameters.limit, MAX_ENTRIES, MAX_ENTRIES)?;
    let lists = state.lists.clone();
    heavy::answer(Some(permit), move || {
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
/// Unix socket only.
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
    let clock = state.report().await?.snapshot.clock;
    let lists = state.lists.clone();
    let entry = blocking(move || lists.add(list, network, addition.reason.as_deref(), addition.lasts, addition.force));
    let entry = entry.await??;
    apply_lists(&state).await;
    Ok((StatusCode::CREATED, Json(row(&entry, &clock))))
}

/// Remove a network from a list
///
/// Unix socket only. Entries added by a command or for an SSH session can be removed; `deny` also lifts blocks within
/// the network.
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
    let text = removal
        .network
        .ok_or_else(|| ApiError::BadBody("which network? For example: ?network=198.51.100.0/24".to_owned()))?;
    let network: Network = text.parse().map_err(crate::lists::ListError::from)?;
    let lifted = match list {
        ListName::Deny => state.execute(|lifted| Command::Lift { network, lifted }).await?,
        ListName::Allow => 0,
    };
    let lists = state.lists.clone();
    blocking(move || lists.remove(list, network, lifted)).await??;
    apply_lists(&state).await;
    Ok(Json(Removed { network: network.to_string(), blocks_lifted: lifted }))
}

/// Waits until the lists are in force, so that the response holds for the next packet. If the daemon is shutting
/// down, the next daemon applies them.
async fn apply_lists(state: &ApiState) {
    state.execute(|applied| Command::ApplyLists { applied }).await.unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_bodies() {
        let seeds: [&[u8]; 4] = [
            br#"{"network":"198.51.100.0/24","reason":"why","for":"10m","force":true}"#,
            br#"{"cidr":"2001:db8::/32","ttl":3.5}"#,
            br#"{"network":"198.51.100.7","expires":"2026-11-20T08:00:00Z"}"#,
            br#"{"frames":["0200000000010200000000020800450000280000400040060000c6120001c6120002"]}"#,
        ];
        crate::fuzz::run(&seeds, |bytes| {
            if let Ok(addition) = serde_json::from_slice::<Addition>(bytes) {
                addition.network.parse::<Network>().ok();
                crate::lists::check_duration(addition.lasts).ok();
            }
            serde_json::from_slice::<Removal>(bytes).ok();
            if let Ok(packets) = serde_json::from_slice::<crate::api::explain::Packets>(bytes) {
                packets.frames.iter().for_each(|digits| drop(crate::api::explain::frame(digits)));
            }
        });
    }
}
