//! `POST /explain`: what would happen to given packets, and why.

use std::net::IpAddr;

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState,
    access::{MayChange, body},
    error::{ExplanationRefused, NotReadyYet},
    heavy::{self, Permit},
    model::Explanation,
};
use crate::{
    explain::{Explainer, MAX_FRAME, MIN_FRAME},
    network::Network,
};

/// Maximum number of packets per request.
pub const MAX_FRAMES: usize = 1000;
/// Maximum length of the body, in bytes: room for that many frames in hexadecimal.
pub(super) const MAX_BODY: usize = MAX_FRAMES * (2 * MAX_FRAME + 16);

/// Packets to explain, one after the other. Handshakes begun by one packet count for the next ones; the time between
/// packets, and completions in the meantime, are not simulated.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Packets {
    /// Ethernet frames in hexadecimal; only the first 512 bytes of each are examined.
    #[schema(value_type = Vec<super::schema::FrameDigits>, max_items = 1000)]
    pub frames: Vec<String>,
}

/// What would happen to packets, and why
///
/// Unix socket only, because it takes a while. The packets run through a second instance of the loaded programs with
/// a copy of their state: nothing is counted and nothing changes.
#[utoipa::path(
    post, path = "/explain", tag = "reading", request_body = Packets,
    responses((status = OK, body = Vec<Explanation>), ExplanationRefused, NotReadyYet)
)]
pub(super) async fn explain(
    _: MayChange,
    State(state): State<ApiState>,
    permit: Permit,
    received: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let packets: Packets =
        serde_json::from_slice(&body(received)?).map_err(|error| ApiError::BadBody(error.to_string()))?;
    let frames = packets.frames.iter().map(|digits| frame(digits)).collect::<Result<Vec<_>, _>>()?;
    if frames.len() > MAX_FRAMES {
        return Err(ApiError::BadBody(format!("there are {} frames, but the limit is {MAX_FRAMES}", frames.len())));
    }
    let (live, lists) = (state.live.clone(), state.lists.clone());
    heavy::answer(Some(permit), move || {
        let listed = |address: IpAddr| lists.covering(Network::of(address.into()));
        let mut explainer = Explainer::new(&live, &listed)?;
        Ok(frames.iter().map(|frame| explainer.explain(frame).map(Explanation::from)).collect::<Result<Vec<_>, _>>()?)
    })
    .await
}

pub(super) fn frame(digits: &str) -> Result<Vec<u8>, ApiError> {
    let bytes =
        hex::decode(digits).map_err(|error| ApiError::BadBody(format!("a frame is not valid hexadecimal: {error}")))?;
    if bytes.len() < MIN_FRAME {
        return Err(ApiError::BadBody(format!(
            "a frame needs at least {MIN_FRAME} bytes, but this one has {}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

impl From<crate::explain::Explanation> for Explanation {
    fn from(explanation: crate::explain::Explanation) -> Self {
        Self {
            packet: explanation.packet,
            verdict: explanation.verdict.name().to_owned(),
            stage: explanation.stage.name().to_owned(),
            counted_as: explanation.counted_as.iter().map(|counter| counter.name().to_owned()).collect(),
            would_drop: explanation.would_drop.map(|reason| reason.name().to_owned()),
            reason: explanation.reason,
        }
    }
}
