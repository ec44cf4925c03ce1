//! The configuration file before validation: every key is optional, unknown keys are refused.

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{
    choices::{Coexist, Hook, Network, OnExit, Period, XdpMode},
    sections::{ChallengeFile, KernelFile, LimitsFile, SourceFile, ThresholdsFile},
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub interfaces: Option<Spanned<Vec<String>>>,
    pub attach: Option<Hook>,
    pub xdp_mode: Option<XdpMode>,
    pub coexist: Option<Coexist>,
    pub syn_attack_protect: Option<Spanned<u8>>,
    pub on_exit: Option<OnExit>,
    pub thresholds: ThresholdsFile,
    pub source: SourceFile,
    pub challenge: ChallengeFile,
    pub lists: ListsFile,
    pub service: Vec<ServiceFile>,
    pub listen: ListenFile,
    pub limits: LimitsFile,
    pub kernel: KernelFile,
    pub store: StoreFile,
    pub pins: PinsFile,
    pub notify: NotifyFile,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListsFile {
    pub allow: Vec<Network>,
    pub deny: Vec<Spanned<Network>>,
    pub deny_files: Vec<PathBuf>,
    pub keep_ssh: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceFile {
    pub ports: Spanned<Vec<u16>>,
    pub max_half_open: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenFile {
    pub http: Option<Spanned<SocketAddr>>,
    pub hosts: Vec<Spanned<String>>,
    pub socket: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StoreFile {
    pub path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PinsFile {
    pub path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NotifyFile {
    pub command: Option<Spanned<Vec<String>>>,
    pub webhook: Option<Spanned<String>>,
    pub timeout: Option<Spanned<Period>>,
    pub retries: Option<Spanned<u32>>,
    pub most_per_hour: Option<Spanned<u32>>,
}
