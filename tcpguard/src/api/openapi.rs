//! `GET /openapi.json`: the description of the API.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::OpenApi;

/// The parts of the OpenAPI description that do not belong to a path.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tcpguard",
        description = "The state of tcpguard, and commands to it. Over TCP the API is read-only; requests that change something \
            need the Unix socket. The `Host` of a request must be an IP address, localhost, or one of `listen.hosts`; \
            requests from pages of other sites are refused with 403. Two paths stream server-sent events, which OpenAPI \
            cannot describe: `/live` (`stats`, once a second and whenever the state changes, and `event`) and \
            `/events/stream?since=` (one message per event, named after its kind; `Last-Event-ID` is supported)."
    ),
    servers((url = "/")),
    components(schemas(super::model::Problem)),
    tags(
        (name = "reading", description = "State and events"),
        (name = "lists", description = "Allow and deny lists"),
        (name = "health", description = "Health checks")
    )
)]
pub(super) struct Description;

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "reading", responses((status = OK, body = serde_json::Value)))]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::description()).into_response()
}
