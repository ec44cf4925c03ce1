//! Explanations without a daemon, by the lists and limits of the configuration alone and without an attack.

use std::{net::IpAddr, sync::Arc};

use tcpguard_common::abi::lease::{Lease, flag};

use super::{Explainer, Explanation};
use crate::{
    config::Config,
    daemon::RunError,
    datapath::{Datapath, DatapathOptions},
    events::EventLog,
    lists::Lists,
    network::Network,
    response,
    time::DatapathTime,
};

/// Explains these frames under `config`, without state of sources and challenges, and with every destination taken for
/// a local one. The datapath is loaded, but not attached.
///
/// # Errors
/// Returns an error if the datapath cannot be loaded, which requires root.
pub fn explain(config: &Config, frames: &[Vec<u8>]) -> Result<Vec<Explanation>, RunError> {
    let (datapath, mut maps) = Datapath::load_unattached(&DatapathOptions::of(config))?;
    let time = Arc::new(DatapathTime::new(datapath.jiffies()?, datapath.ticks_per_second));
    let (lists, mut files) = Lists::start(config, maps.rules, EventLog::in_memory(), Default::default(), time)?;
    files.review();
    lists.watch_ssh().review();
    let mut flags = flag::LIMIT;
    if config.syn_attack_protect == 2 {
        flags |= flag::DROP;
    }
    let terms = response::source_limits(config, datapath.ticks_per_second);
    maps.lease.grant(&lists.added_to(Lease { valid_until: u64::MAX, flags, ..terms }))?;
    let listed = |address: IpAddr| lists.covering(Network::of(address.into()));
    let mut explainer = Explainer::new(&maps.live, &listed)?;
    Ok(frames.iter().map(|frame| explainer.explain(frame)).collect::<Result<_, _>>()?)
}
