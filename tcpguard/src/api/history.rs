//! `GET /history`.

use axum::{Json, extract::State};

use super::{ApiState, model::HistoryReport};

/// The last fifteen minutes
///
/// One sample per second. Every list has one value per sample, the oldest first.
#[utoipa::path(get, path = "/history", tag = "reading", responses((status = OK, body = HistoryReport)))]
pub(super) async fn history(State(state): State<ApiState>) -> Json<HistoryReport> {
    let mut report = HistoryReport::default();
    for sample in state.history.samples() {
        report.time.push(sample.time);
        report.state.push(sample.phase.name().to_owned());
        report.syn_per_second.push(sample.syn);
        report.completed_per_second.push(sample.completed);
        report.dropped_per_second.push(sample.dropped);
        report.challenged_per_second.push(sample.challenged);
        report.distinct_sources_per_second.push(sample.distinct_sources);
        report.half_open_kernel.push(sample.half_open.kernel);
        report.half_open_kernel_retried.push(sample.half_open.kernel_retried);
        report.half_open_datapath.push(sample.half_open.datapath);
    }
    Json(report)
}
