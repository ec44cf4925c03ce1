//! `POST /explain`: what would become of packets, and why.

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
    heavy::{self, Turn},
    model::Explanation,
};
use crate::{
    explain::{Explainer, LONGEST_FRAME, SHORTEST_FRAME},
    lists::Network,
};

/// Packets that are explained at once.
pub const MOST_FRAMES: usize = 1000;
/// Room for as many, in hexadecimal digits.
pub(super) const LONGEST_BODY: usize = MOST_FRAMES * (2 * LONGEST_FRAME + 16);

/// Packets to explain, one after the other: the connections that one begins count for the next; the times between them, and
/// handshakes that complete meanwhile, do not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Packets {
    /// Ethernet frames, in hexadecimal digits; of each the first 512 bytes are looked at.
    #[schema(value_type = Vec<super::schema::FrameDigits>, max_items = 1000)]
    pub frames: Vec<String>,
}

/// What would become of packets, and why
///
/// Over the Unix socket only, since it takes a while. They are run through a twin of the loaded programs, with a copy of
/// their state: nothing is counted, and nothing changes.
#[utoipa::path(
    post, path = "/explain", tag = "reading", request_body = Packets,
    responses((status = OK, body = Vec<Explanation>), ExplanationRefused, NotReadyYet)
)]
pub(super) async fn explain(
    _: MayChange,
    State(state): State<ApiState>,
    turn: Turn,
    received: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let packets: Packets =
        serde_json::from_slice(&body(received)?).map_err(|error| ApiError::BadBody(error.to_string()))?;
    let frames = packets.frames.iter().map(|digits| frame(digits)).collect::<Result<Vec<_>, _>>()?;
    if frames.len() > MOST_FRAMES {
        return Err(ApiError::BadBody(format!("there are {} frames, and may be {MOST_FRAMES} at once", frames.len())));
    }
    let (live, lists) = (state.live.clone(), state.lists.clone());
    heavy::answer(Some(turn), move || {
        let listed = |address: IpAddr| lists.covering(Network::of(address.into()));
        let mut explainer = Explainer::new(&live, &listed)?;
        Ok(frames.iter().map(|frame| explainer.explain(frame).map(Explanation::from)).collect::<Result<Vec<_>, _>>()?)
    })
    .await
}

fn frame(digits: &str) -> Result<Vec<u8>, ApiError> {
    let bytes = hex::decode(digits)
        .map_err(|error| ApiError::BadBody(format!("a frame is not in hexadecimal digits: {error}")))?;
    if bytes.len() < SHORTEST_FRAME {
        return Err(ApiError::BadBody(format!(
            "a frame has at least {SHORTEST_FRAME} bytes, and this has {}",
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
