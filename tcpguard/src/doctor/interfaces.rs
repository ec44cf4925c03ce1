//! The interfaces to guard: whether they can be, in which mode, and how their load is spread.

use std::{fmt::Display, thread::available_parallelism};

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle, new_connection};
use futures_util::TryStreamExt;
use tcpguard_common::layout::program;
use tracing::debug;

use super::{Finding, wanted};
use crate::{
    api::model::Stats,
    config::{Config, XdpMode},
    datapath::program_name,
    interfaces::{Link, Links},
};

const AREA: &str = "interface";

/// All interfaces, and that of the default route.
pub(super) struct Listed {
    links: Vec<Link>,
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
        let meaning = "there is no default route that would tell which interface to guard";
        return vec![
            Finding::new(AREA, "none", "nothing to guard", meaning)
                .fix("name them in the configuration: interfaces = [\"eth0\"]"),
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
                    "it is guarded as soon as it appears; `tcpguard run` wants it there at the start",
                )
                .fix("correct `interfaces` in the configuration; `ip link` lists those there are"),
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

/// How the program is, or would be, attached.
fn attachment(link: &Link, config: &Config, stats: Option<&Stats>) -> Finding {
    let meaning = "where frames are looked at: native is by the driver, before the kernel has spent anything; generic costs several times that";
    let finding = |value: String| Finding::new(AREA, format!("{} XDP", link.name), value, meaning);
    if !link.is_ethernet {
        let fix = "guard the Ethernet interface below it";
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
                    finding.fix("`tcpguard status` and the log say why; it is attached again when that is over")
                }
                "generic" if !wants_generic => finding.note(),
                _ => finding,
            }
        }
        (None, Some((id, _))) => match program_name(id) {
            Some(name) if name == program::GUARD => finding(format!("tcpguard's own program, with the id {id}")),
            name => finding(format!("taken by the program {} with the id {id}", name.unwrap_or_default()))
                .fix("`coexist = \"chain\"` has tcpguard run before it, `attach = \"tc\"` beside it; or leave the interface out of `interfaces`"),
        },
        (None, None) => finding("free; the mode shows once `tcpguard run` is attached".to_owned()),
    }
}

/// Whether all CPUs share the load (receive side scaling).
async fn queues(link: &Link) -> Option<Finding> {
    let (used, most) = channels(&link.name).await?;
    let cpus = available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let meaning = "queues that frames arrive in: each is served by one CPU, so that a flood can fill but one of them";
    let finding =
        Finding::new(AREA, format!("{} queues", link.name), format!("{used} of {most} for {cpus} CPUs"), meaning);
    let better = most.min(cpus);
    let fix = format!(
        "before tcpguard is started: ethtool -L {} combined {better} (many drivers drop the link for a moment then, and some want \
         queues to spare for native XDP)",
        link.name
    );
    Some(if used < better { Finding { fix: Some(fix), ..finding.note() } } else { finding })
}

/// Receive queues in use, and how many there can be; `None` where the driver does not tell.
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

/// A NIC that takes VLAN tags off hides from the program, which network a frame belongs to.
async fn vlan_stripping(link: &Link, links: &[Link]) -> Option<Finding> {
    if !links.iter().any(|other| other.lower == Some(link.index)) {
        return None;
    }
    let is_stripping = has_feature(&link.name, "rx-vlan-hw-parse").await?;
    let meaning =
        "takes VLAN tags off before the program sees the frame: a challenge would be answered without the tag";
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

/// A channel to the drivers.
fn ethtool(interface: &str) -> Option<EthtoolHandle> {
    let (connection, handle, _) = known(new_connection(), interface)?;
    tokio::spawn(connection);
    Some(handle)
}

/// Many drivers do not tell.
fn known<T>(answer: Result<T, impl Display>, interface: &str) -> Option<T> {
    answer.inspect_err(|error| debug!("{interface}: the driver does not tell: {error}")).ok()
}

fn veth(link: &Link) -> Option<Finding> {
    let meaning = "answers with cookies leave a veth at once only where its other end has an XDP program or GRO";
    link.is_veth.then(|| Finding::new(AREA, format!("{} kind", link.name), "veth", meaning).note())
}
