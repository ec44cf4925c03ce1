//! Requests to the daemon over its socket.

use std::{future::Future, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::api::model::Problem;

/// The daemon's error response to a request.
#[derive(Debug, Error)]
#[error("the daemon answered: {problem}")]
pub(super) struct Refused {
    /// HTTP status of the response.
    pub status: StatusCode,
    problem: String,
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a request and returns the daemon's answer, deserialised from JSON.
pub(super) fn request<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<T> {
    run(ask(socket, method, path, body))
}

/// Sends a request, like [`request`], for callers on a runtime.
pub(super) async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<T> {
    let answer = async {
        let response = send(socket, method, path, body).await?;
        let body = response.into_body().collect().await.context("the daemon's answer was cut off")?.to_bytes();
        serde_json::from_slice(&body).context("cannot parse the daemon's answer: is it a different version?")
    };
    tokio::time::timeout(PATIENCE, answer)
        .await
        .map_err(|_| anyhow!("the daemon at {} did not answer within {PATIENCE:?}", socket.display()))?
}

/// Passes each server-sent event to `visit` until the daemon ends.
pub(super) fn stream(socket: &Path, path: &str, mut visit: impl FnMut(&Message) -> Result<()>) -> Result<()> {
    run(async {
        let mut messages = Messages::follow(socket, path).await?;
        while let Some(message) = messages.next().await? {
            visit(&message)?;
        }
        Ok(())
    })
}

/// A server-sent event.
pub(super) struct Message {
    /// Name of the event, from the `event` field.
    pub name: String,
    /// Contents of the `data` field.
    pub data: String,
}

/// A stream of server-sent events.
pub(super) struct Messages {
    body: Incoming,
    received: Vec<u8>,
    name: String,
}

impl Messages {
    /// Subscribes to the events of `path`.
    pub async fn follow(socket: &Path, path: &str) -> Result<Self> {
        let body = send(socket, Method::GET, path, None).await?.into_body();
        Ok(Self { body, received: Vec::new(), name: String::new() })
    }

    /// Returns the next event, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                match line.trim_end().split_once(':') {
                    Some(("event", name)) => self.name = name.trim_start().to_owned(),
                    Some(("data", data)) => {
                        return Ok(Some(Message {
                            name: std::mem::take(&mut self.name),
                            data: data.trim_start().to_owned(),
                        }));
                    }
                    _ => {}
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.context("the daemon has ended")?.into_data() {
                self.received.extend_from_slice(&data);
            }
        }
    }
}

/// Whether a daemon can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// A daemon listens on the socket.
    Listens,
    /// No process listens on the socket.
    Absent,
    /// The user has no permission to open the socket.
    Forbidden,
}

/// Tries to connect to the daemon at `socket`.
pub(super) fn presence(socket: &Path) -> Presence {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Presence::Listens,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Presence::Forbidden,
        Err(_) => Presence::Absent,
    }
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    super::runtime()?.block_on(work)
}

async fn send(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("tcpguard cannot be reached at {} (is it running? `tcpguard run` starts it)", socket.display())
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await.context("the daemon closed the connection")?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.into_body().collect().await.context("the daemon's answer was cut off")?.to_bytes();
    let problem = serde_json::from_slice::<Problem>(&body).map_or_else(|_| status.to_string(), |body| body.error);
    Err(Refused { status, problem }.into())
}
