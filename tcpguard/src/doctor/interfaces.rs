//! Checks of the interfaces to guard: whether they exist, their XDP mode, queues and offloads.

use std::{fmt::Display, thread::available_parallelism};

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle, new_connection};
use futures_util::TryStreamExt;
use tcpguard_common::abi::names::program;
use tracing::debug;

use super::{Finding, wanted};
use crate::{
    api::model::Stats,
    config::{Config, XdpMode},
    datapath::program_name,
    interfaces::{Link, Links},
};

const AREA: &str = "interface";

/// The host's interfaces, and that of the default route.
pub(super) struct Listed {
    pub links: Vec<Link>,
    default: Option<String>,
    problem: Option<String>,
}

pub(super) async fn list() -> Listed {
    let listed = async {
        let links = Links::open()?;
        Ok::<_, crate::datapath::DatapathError>((links.all().await?, links.default_route_interface().await?))
    };
    match listed.await {
        Ok((links, default)) => Listed { links, default, problem: None },
        Err(error) => Listed { links: Vec::new(), default: None, problem: Some(error.to_string()) },
    }
}

pub(super) async fn examine(listed: &Listed, config: &Config, stats: Option<&Stats>) -> Vec<Finding> {
    if let Some(problem) = &listed.problem {
        return vec![Finding::new(AREA, "all", "not known", problem).fix("use a kernel with CONFIG_RTNETLINK")];
    }
    let wanted = wanted(&listed.links, config, listed.default.as_deref());
    if wanted.is_empty() {
        let meaning = "no interface is configured, and there is no default route";
        return vec![
            Finding::new(AREA, "none", "nothing to guard", meaning)
                .fix("name the interfaces in the configuration: interfaces = [\"eth0\"]"),
        ];
    }
    let mut findings = Vec::new();
    for (name, link) in wanted {
        let Some(link) = link else {
            findings.push(
                Finding::new(
                    AREA,
                    name,
                    "not there",
                    "it is guarded as soon as it appears, but must exist when `tcpguard run` starts",
                )
                .fix("correct `interfaces` in the configuration; `ip link` lists the existing ones"),
            );
            continue;
        };
        findings.push(attachment(link, config, stats));
        findings.extend(queues(link).await);
        findings.extend(vlan_stripping(link, &listed.links).await);
        findings.extend(veth(link));
    }
    findings
}

/// Checks whether and how the XDP program is, or can be, attached.
fn attachment(link: &Link, config: &Config, stats: Option<&Stats>) -> Finding {
    let meaning = "XDP mode: native runs in the driver, before the kernel processes the frame; generic costs several times as much";
    let finding = |value: String| Finding::new(AREA, format!("{} XDP", link.name), value, meaning);
    if !link.is_ethernet {
        let fix = "guard the underlying Ethernet interface";
        return finding("not an Ethernet interface".to_owned()).fix(fix);
    }
    let guarded = stats.and_then(|stats| stats.interfaces.iter().find(|interface| interface.name == link.name));
    match (guarded, link.xdp) {
        (Some(interface), _) => {
            let reason = interface.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            let wants_generic = config.xdp_mode == XdpMode::Generic;
            let finding = finding(format!("{}{reason}", interface.xdp_mode));
            match interface.xdp_mode.as_str() {
                "detached" => {
                    finding.fix("`tcpguard status` and the log show the reason; it is attached again once the cause is gone")
                }
                "generic" if !wants_generic => finding.note(),
                _ => finding,
            }
        }
        (None, Some((id, _))) => match program_name(id) {
            Some(name) if name == program::PACKET => finding(format!("tcpguard's own program (id {id})")),
            name => finding(format!("in use by the program {} (id {id})", name.unwrap_or_default()))
                .fix("set `coexist = \"chain\"` to run before that program, or `attach = \"tc\"` to run beside it, or remove the interface from `interfaces`"),
        },
        (None, None) => finding("free; the mode is known once `tcpguard run` is attached".to_owned()),
    }
}

/// Checks whether the receive queues spread the load over all CPUs (receive side scaling).
async fn queues(link: &Link) -> Option<Finding> {
    let (used, most) = channels(&link.name).await?;
    let cpus = available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let meaning = "receive queues: each is served by one CPU, so a flood into a single queue loads only one CPU";
    let finding =
        Finding::new(AREA, format!("{} queues", link.name), format!("{used} of {most} for {cpus} CPUs"), meaning);
    let better = most.min(cpus);
    let fix = format!(
        "before starting tcpguard: ethtool -L {} combined {better} (many drivers take the link down for a moment, and some need \
         spare queues for native XDP)",
        link.name
    );
    Some(if used < better { Finding { fix: Some(fix), ..finding.note() } } else { finding })
}

/// Returns the number of receive queues in use and the maximum, or `None` if the driver does not report them.
async fn channels(interface: &str) -> Option<(u32, u32)> {
    let mut handle = ethtool(interface)?;
    let answers = known(handle.channel().get(Some(interface)).execute().await, interface)?;
    let messages: Vec<_> = known(answers.try_collect().await, interface)?;
    let (mut used, mut most) = (0, 0);
    for attribute in messages.into_iter().flat_map(|message| message.payload.nlas) {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count) | EthtoolChannelAttr::RxCount(count)) => {
                used += count
            }
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(count)) => most = most.max(count),
            _ => {}
        }
    }
    (used > 0 && most > 0).then_some((used, most))
}

/// Checks for VLAN tag stripping, which hides from the XDP program which VLAN a frame belongs to.
async fn vlan_stripping(link: &Link, links: &[Link]) -> Option<Finding> {
    if !links.iter().any(|other| other.lower == Some(link.index)) {
        return None;
    }
    let is_stripping = has_feature(&link.name, "rx-vlan-hw-parse").await?;
    let meaning =
        "strips VLAN tags before the XDP program sees the frame: SYN-ACKs with cookies would be sent without the tag";
    let value = if is_stripping { "on" } else { "off" };
    let finding = Finding::new(AREA, format!("{} VLAN stripping", link.name), value, meaning);
    Some(finding.fix_if(is_stripping, format!("ethtool -K {} rxvlan off", link.name)))
}

async fn has_feature(interface: &str, wanted: &str) -> Option<bool> {
    let mut handle = ethtool(interface)?;
    let answers = known(handle.feature().get(Some(interface)).execute().await, interface)?;
    let messages: Vec<_> = known(answers.try_collect().await, interface)?;
    let attributes = messages.into_iter().flat_map(|message| message.payload.nlas);
    let active = attributes.filter_map(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
        _ => None,
    });
    Some(active.flatten().any(|bit| bit.name == wanted && bit.value))
}

/// Opens an ethtool netlink connection.
fn ethtool(interface: &str) -> Option<EthtoolHandle> {
    let (connection, handle, _) = known(new_connection(), interface)?;
    tokio::spawn(connection);
    Some(handle)
}

/// Returns the answer, or `None` with a debug message on an error: many drivers lack the operation.
fn known<T>(answer: Result<T, impl Display>, interface: &str) -> Option<T> {
    answer.inspect_err(|error| debug!("{interface}: no answer from the driver: {error}")).ok()
}

fn veth(link: &Link) -> Option<Finding> {
    let meaning = "SYN-ACKs sent from XDP leave a veth only if its other end has an XDP program or GRO";
    link.is_veth.then(|| Finding::new(AREA, format!("{} kind", link.name), "veth", meaning).note())
}
