//! Messages of the datapath (aya-log), handed on to tracing.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::readiness::readable;

/// Starts to hand messages on; without it the programs run all the same.
pub(super) fn start(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!("the datapath's log is not to be had: {error}"),
    };
    match readable(logger) {
        Ok(logger) => drop(tokio::spawn(hand_on(logger))),
        Err(error) => warn!("the datapath's log is not to be had: {error}"),
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
