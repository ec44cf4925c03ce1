//! `GET /half-open`: what `netstat -n -p TCP | grep SYN_RECV` shows, with an interpretation.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;
use tracing::debug;

use super::{
    ApiError, ApiState,
    error::{NotReadyYet, QueryRefused},
    heavy::{self, Permit},
    model::{HalfOpenPort, HalfOpenReport, HalfOpenRow},
};
use crate::{
    daemon::TickReport,
    kernel::{HalfOpenTable, KernelView as _, LiveKernel, Spread},
    monitor::Snapshot,
    response::challenge::Method,
};

/// Rows up to this age are reported as they are. A reading takes a tenth of a second at 300,000 connections.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Only handshakes of this local port.
    #[param(maximum = 65_535)]
    port: Option<u16>,
}

/// Half-open handshakes in the kernel
///
/// What `netstat -n -p TCP | grep SYN_RECV` shows, with counts by port and whether the sources look random.
#[utoipa::path(
    get, path = "/half-open", tag = "reading", params(Parameters),
    responses((status = OK, body = HalfOpenReport), QueryRefused, NotReadyYet)
)]
pub(super) async fn half_open(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    permit: Permit,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let report = state.report().await?;
    heavy::answer(Some(permit), move || {
        let kernel = self::report(&state.kernel_rows.as_of_now(&report.snapshot), parameters.port);
        let datapath = parameters.port.is_none().then_some(report.snapshot.half_open.datapath);
        Ok(HalfOpenReport { datapath, note: note(&report, parameters.port), ..kernel })
    })
    .await
}

/// The kernel's rows, read on request where the ticks read them seldom.
#[derive(Clone, Default)]
pub struct KernelRows {
    /// The last reading on request, and when it ended.
    last: Arc<Mutex<Option<Reading>>>,
}

type Reading = (Instant, Arc<HalfOpenTable>);

impl KernelRows {
    /// Returns the rows of the snapshot, or newer ones if those are older than [`FRESH`], as they are on hosts with many
    /// connections. Requests share a reading while it is fresh: whoever may only read must not make the kernel walk its
    /// connections all the time. If reading fails, the snapshot's rows are returned.
    fn as_of_now(&self, snapshot: &Snapshot) -> Arc<HalfOpenTable> {
        let is_fresh = |read: Instant| read.elapsed() <= FRESH;
        if snapshot.kernel_read.is_none_or(is_fresh) {
            return Arc::clone(&snapshot.kernel_half_open);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = last.as_ref().filter(|(read, _)| is_fresh(*read)) {
            return Arc::clone(table);
        }
        match LiveKernel::open().and_then(|mut kernel| kernel.half_open()) {
            Ok(table) => {
                let table = Arc::new(table);
                *last = Some((Instant::now(), Arc::clone(&table)));
                table
            }
            Err(error) => {
                debug!("half-open handshakes as of the last reading: the kernel's cannot be read: {error}");
                Arc::clone(&snapshot.kernel_half_open)
            }
        }
    }
}

/// Returns why the kernel has no rows for some handshakes: it has none for those that are answered with a cookie.
fn note(report: &TickReport, port: Option<u16>) -> Option<String> {
    let is_wanted = |candidate: u16| port.is_none_or(|port| port == candidate);
    let challenge = &report.measures.challenge;
    let ports: Vec<String> = challenge
        .ports
        .iter()
        .filter(|port| port.method == Method::Cookie && is_wanted(port.port))
        .map(|port| port.port.to_string())
        .collect();
    let who = if !ports.is_empty() {
        format!("tcpguard answers SYNs to port {} with cookies", ports.join(", "))
    } else if report.snapshot.tcp_ext.sends_cookies_always {
        "the kernel answers every SYN with a cookie (net.ipv4.tcp_syncookies = 2)".to_owned()
    } else {
        return None;
    };
    let count = report.snapshot.half_open.datapath;
    Some(format!(
        "{who}, which leaves no row in the kernel until the client returns it; by the datapath's count, {count} handshakes \
         of all ports are half open"
    ))
}

/// Returns the report of all rows, or of the rows of one local port.
pub fn report(table: &HalfOpenTable, port: Option<u16>) -> HalfOpenReport {
    let is_wanted = |candidate: u16| port.is_none_or(|port| port == candidate);
    let ports: Vec<HalfOpenPort> = table
        .by_port
        .iter()
        .filter(|(port, _)| is_wanted(**port))
        .map(|(port, counts)| HalfOpenPort {
            port: *port,
            half_open: counts.total as u64,
            retried: counts.retried as u64,
        })
        .collect();
    let rows: Vec<_> = table.rows.iter().filter(|row| is_wanted(row.local.port())).collect();
    let spread = Spread::of(rows.iter().map(|row| row.remote.ip()));
    HalfOpenReport {
        total: ports.iter().map(|port| port.half_open).sum(),
        retried: ports.iter().map(|port| port.retried).sum(),
        datapath: None,
        note: None,
        ports,
        sources: spread.to_string(),
        rows: rows
            .into_iter()
            .map(|row| HalfOpenRow {
                local: row.local.to_string(),
                remote: row.remote.to_string(),
                port: row.local.port(),
                age_seconds: row.age.as_millis() as f64 / 1000.0,
                retransmits: row.retransmits,
            })
            .collect(),
    }
}
