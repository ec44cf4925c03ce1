//! Raw HTTP requests to the daemon.

use std::io::{Read, Write};

use anyhow::{Context, Result};

/// Sends `request` unmodified and returns status and body of the response.
///
/// # Errors
/// Returns an error if there is no response.
pub fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<(u16, String)> {
    // The server may respond and close the connection before it has read the whole request.
    let written = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        written.context("cannot send the request")?;
        read.context("cannot read the response")?;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status.with_context(|| format!("not an HTTP response: {answer:?}"))?, body.to_owned()))
}

/// Sends `GET path` and returns status and body.
///
/// # Errors
/// Returns an error if there is no response.
pub fn get(stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    exchange(stream, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends `request` over a connection that stays open and returns the status of the response.
///
/// # Errors
/// Returns an error if there is no response.
pub fn exchange_kept_alive(stream: &mut (impl Read + Write), request: &[u8]) -> Result<u16> {
    stream.write_all(request).context("cannot send the request")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let read = stream.read(&mut chunk).context("cannot read the response")?;
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            anyhow::ensure!(read > 0, "not an HTTP response: {text:?}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no HTTP status");
        }
        anyhow::ensure!(read > 0, "incomplete response: {text:?}");
    }
}
