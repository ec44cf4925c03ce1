//! Asking the daemon over its socket.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::model::Problem;

const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon's answer to `GET path`.
pub(super) fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, request(socket, path))
            .await
            .map_err(|_| anyhow!("the daemon at {} did not answer within {PATIENCE:?}", socket.display()))?
    })
}

/// Whether a daemon can be asked at all.
pub(super) fn is_running(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

async fn request<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("tcpguard cannot be reached at {} (is it running? `tcpguard run` starts it)", socket.display())
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("the daemon closed the connection")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("the daemon's answer was cut off")?.to_bytes();
    if !status.is_success() {
        let problem = serde_json::from_slice::<Problem>(&body).map_or_else(|_| status.to_string(), |body| body.error);
        bail!("the daemon answered: {problem}");
    }
    serde_json::from_slice(&body).context("the daemon's answer is not understood: is it of another version?")
}
