//! `GET /openapi.json`: what all this is, for programs.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::OpenApi;

/// What stands above the paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tcpguard",
        description = "What tcpguard sees and does. Over TCP one can only read; whatever changes something needs the Unix \
            socket. Requests must be for an address, for localhost, or for one of `listen.hosts`; pages of other sites are \
            refused with 403. Two paths stream server-sent events, which this description has no words for: `/live` \
            (`stats`, once a second and whenever the state changes, and `event`) and `/events/stream?since=` (one for each \
            event, named after its kind; `Last-Event-ID` is understood)."
    ),
    servers((url = "/")),
    components(schemas(super::model::Problem)),
    tags(
        (name = "reading", description = "How things stand, and what happened"),
        (name = "lists", description = "Who is always let in, and who never"),
        (name = "health", description = "For supervisors")
    )
)]
pub(super) struct Description;

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "reading", responses((status = OK, body = serde_json::Value)))]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::description()).into_response()
}
