//! Forwards the datapath's log messages (aya-log) to tracing.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::readiness::readable;

/// Starts to forward messages. On failure only a warning is logged; the programs work without a log.
pub(super) fn start(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!("the datapath's log is not available: {error}"),
    };
    match readable(logger) {
        Ok(logger) => drop(tokio::spawn(hand_on(logger))),
        Err(error) => warn!("the datapath's log is not available: {error}"),
    }
}

async fn hand_on(mut logger: AsyncFd<EbpfLogger<&'static dyn ::log::Log>>) {
    loop {
        match logger.readable_mut().await {
            Ok(mut guard) => {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
            Err(error) => return warn!("the datapath's log ended: {error}"),
        }
    }
}
