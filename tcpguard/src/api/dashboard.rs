//! `GET /`: the dashboard, which is compiled into the binary.

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse, Response},
};

use super::ApiError;

macro_rules! built {
    ($file:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/dashboard/", $file))
    };
}

/// Serves the page.
pub(super) async fn page() -> Response {
    file("text/html; charset=utf-8", built!("index.html"))
}

/// Serves the page's script and style sheet.
pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    match name.as_str() {
        "app.js" => Ok(file("text/javascript; charset=utf-8", built!("app.js"))),
        "app.css" => Ok(file("text/css; charset=utf-8", built!("app.css"))),
        _ => Err(ApiError::NoSuchPath),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
