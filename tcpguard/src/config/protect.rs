//! The `[[protect]]` sections as they are typed, and their validation.

use std::collections::BTreeSet;

use serde::Deserialize;
use tcpguard_common::abi::place::PROTECTED_PLACES;
use toml::Spanned;

use super::{
    Config, Protect,
    choices::{Network, ReturnPathChoice},
    error::Problem,
    sections::within,
};

/// The maximum length of a name, in bytes.
const MAX_NAME: usize = 32;
/// The maximum number of networks in all sections, as the map of the datapath has room.
const MAX_NETWORKS: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProtectFile {
    name: Spanned<String>,
    networks: Spanned<Vec<Network>>,
    ports: Spanned<Vec<u16>>,
    #[serde(default)]
    return_path: ReturnPathChoice,
    max_half_open: Option<Spanned<u32>>,
}

/// Validates all sections.
pub(super) fn protected(typed: Vec<ProtectFile>) -> Result<Vec<Protect>, Problem> {
    let (mut names, mut networks, mut ports) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut sections = Vec::new();
    for typed in typed {
        let spans = (typed.name.span(), typed.networks.span(), typed.ports.span());
        let section = protect(typed)?;
        if !names.insert(section.name.clone()) {
            let message = format!("there are two [[protect]] sections named \"{}\"", section.name);
            return Err(Problem { message, span: spans.0 });
        }
        if let Some(twice) = section.networks.iter().find(|network| !networks.insert(**network)) {
            return Err(Problem { message: format!("{twice} is protected twice"), span: spans.1 });
        }
        if networks.len() > MAX_NETWORKS {
            let message = format!("at most {MAX_NETWORKS} networks can be protected");
            return Err(Problem { message, span: spans.1 });
        }
        ports += section.ports.len();
        if ports > PROTECTED_PLACES {
            let message = format!("all [[protect]] sections together may have {PROTECTED_PLACES} ports");
            return Err(Problem { message, span: spans.2 });
        }
        sections.push(section);
    }
    Ok(sections)
}

fn protect(typed: ProtectFile) -> Result<Protect, Problem> {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = typed.name.as_ref();
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_sign) {
        let message = format!(
            "\"{name}\" is not a name of letters, digits, -, _ and ., with at most {MAX_NAME} of them, such as \"shop\""
        );
        return Err(Problem { message, span: typed.name.span() });
    }
    if typed.networks.as_ref().is_empty() {
        let message = "[[protect]] needs at least one network".to_owned();
        return Err(Problem { message, span: typed.networks.span() });
    }
    let ports: BTreeSet<u16> = typed.ports.as_ref().iter().copied().collect();
    if ports.is_empty() || ports.contains(&0) || ports.len() != typed.ports.as_ref().len() {
        let message = "[[protect]] needs at least one port, from 1 to 65535, and each once".to_owned();
        return Err(Problem { message, span: typed.ports.span() });
    }
    let default = Config::default().thresholds.max_half_open;
    Ok(Protect {
        name: typed.name.into_inner(),
        networks: typed.networks.into_inner().into_iter().map(|network| network.0.into()).collect(),
        ports: typed.ports.into_inner(),
        return_path: typed.return_path,
        max_half_open: within(typed.max_half_open, default, &(1..=10_000_000))?,
    })
}
