//! The configuration file as it is typed (every key is optional, unknown keys are refused), and its validation.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    Challenge, Config, Kernel, Limits, Listen, Lists, Notify, Pins, Service, SourceLimits, Store, Thresholds,
    choices::{Coexist, Hook, Network, OnExit, Period, XdpMode},
    error::Problem,
    protect::{ProtectFile, protected},
    sections::{ChallengeFile, KernelFile, LimitsFile, SourceFile, ThresholdsFile, within},
};

/// Maximum length of an interface name in bytes (`IFNAMSIZ` without the terminating zero).
const MAX_INTERFACE_NAME: usize = 15;
/// Maximum length of a Unix socket's path in bytes (`sun_path` without the terminating zero).
const MAX_SOCKET_PATH: usize = 107;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConfigFile {
    interfaces: Option<Spanned<Vec<String>>>,
    attach: Option<Hook>,
    xdp_mode: Option<XdpMode>,
    coexist: Option<Coexist>,
    syn_attack_protect: Option<Spanned<u8>>,
    on_exit: Option<OnExit>,
    thresholds: ThresholdsFile,
    source: SourceFile,
    challenge: ChallengeFile,
    lists: ListsFile,
    service: Vec<ServiceFile>,
    protect: Vec<ProtectFile>,
    listen: ListenFile,
    limits: LimitsFile,
    kernel: KernelFile,
    store: StoreFile,
    pins: PinsFile,
    notify: NotifyFile,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListsFile {
    allow: Vec<Network>,
    deny: Vec<Spanned<Network>>,
    deny_files: Vec<PathBuf>,
    keep_ssh: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFile {
    ports: Spanned<Vec<u16>>,
    max_half_open: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListenFile {
    http: Option<Spanned<SocketAddr>>,
    hosts: Vec<Spanned<String>>,
    socket: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoreFile {
    path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PinsFile {
    path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NotifyFile {
    command: Option<Spanned<Vec<String>>>,
    webhook: Option<Spanned<String>>,
    timeout: Option<Spanned<Period>>,
    retries: Option<Spanned<u32>>,
    most_per_hour: Option<Spanned<u32>>,
}

pub(super) fn validate(file: ConfigFile) -> Result<Config, Problem> {
    let defaults = Config::default();
    Ok(Config {
        interfaces: interfaces(file.interfaces)?,
        attach: file.attach.unwrap_or(defaults.attach),
        coexist: file.coexist.unwrap_or(defaults.coexist),
        xdp_mode: file.xdp_mode.unwrap_or(defaults.xdp_mode),
        syn_attack_protect: within(file.syn_attack_protect, defaults.syn_attack_protect, &(0..=2))?,
        on_exit: file.on_exit.unwrap_or(defaults.on_exit),
        thresholds: thresholds(file.thresholds)?,
        source: source(file.source)?,
        challenge: Challenge::validate(file.challenge)?,
        lists: lists(file.lists, defaults.lists)?,
        services: services(file.service)?,
        protected: protected(file.protect)?,
        listen: listen(file.listen, defaults.listen)?,
        limits: Limits::validate(file.limits)?,
        kernel: Kernel::validate(file.kernel)?,
        store: Store { path: absolute("the store", file.store.path, defaults.store.path)? },
        pins: Pins { path: absolute("the pins", file.pins.path, defaults.pins.path)? },
        notify: notify(file.notify, defaults.notify)?,
    })
}

fn interfaces(typed: Option<Spanned<Vec<String>>>) -> Result<Vec<String>, Problem> {
    let Some(typed) = typed else { return Ok(Vec::new()) };
    let span = typed.span();
    let names = typed.into_inner();
    match interfaces_problem(&names) {
        Some(message) => Err(Problem { message, span }),
        None => Ok(names),
    }
}

/// Returns the first problem with these interface names and patterns.
pub(super) fn interfaces_problem(names: &[String]) -> Option<String> {
    for (index, name) in names.iter().enumerate() {
        let is_name = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME
            && !name.contains(|character: char| character == '/' || character.is_whitespace());
        if !is_name {
            return Some(format!("\"{name}\" cannot be the name of an interface"));
        }
        if crate::interfaces::is_pattern(name)
            && let Err(error) = glob::Pattern::new(name)
        {
            return Some(format!("\"{name}\" is not a valid interface pattern: {error}"));
        }
        if names[..index].contains(name) {
            return Some(format!("interface {name} is named twice"));
        }
    }
    None
}

/// Returns the problem with this socket path, if it is invalid.
pub(super) fn socket_problem(path: &Path) -> Option<String> {
    let is_path = path.is_absolute() && path.as_os_str().len() <= MAX_SOCKET_PATH;
    (!is_path).then(|| {
        format!("\"{}\" is not a valid socket path: it must start with / and have at most 107 bytes", path.display())
    })
}

fn thresholds(typed: ThresholdsFile) -> Result<Thresholds, Problem> {
    let retried_span = typed.max_half_open_retried.as_ref().map(Spanned::span);
    let thresholds = Thresholds::validate(typed)?;
    match retried_span {
        Some(span) if thresholds.max_half_open_retried > thresholds.max_half_open => Err(Problem {
            message: format!(
                "max_half_open_retried ({}) must not exceed max_half_open ({}), which includes the same handshakes",
                thresholds.max_half_open_retried, thresholds.max_half_open
            ),
            span,
        }),
        // Not set: the default is lowered to a smaller max_half_open.
        None => Ok(Thresholds {
            max_half_open_retried: thresholds.max_half_open_retried.min(thresholds.max_half_open),
            ..thresholds
        }),
        Some(_) => Ok(thresholds),
    }
}

fn source(typed: SourceFile) -> Result<SourceLimits, Problem> {
    let max_span = typed.block_max.as_ref().or(typed.block_for.as_ref()).map(Spanned::span);
    let limits = SourceLimits::validate(typed)?;
    match max_span {
        Some(span) if limits.block_for > limits.block_max => {
            Err(Problem { message: "block_for is longer than block_max".to_owned(), span })
        }
        _ => Ok(limits),
    }
}

fn lists(typed: ListsFile, defaults: Lists) -> Result<Lists, Problem> {
    if let Some(wide) = typed.deny.iter().find(|network| network.as_ref().0.is_too_wide()) {
        let network = wide.as_ref().0;
        let message =
            format!("{network} is too wide to deny here; `tcpguard block {network} --force` denies it anyway");
        return Err(Problem { message, span: wide.span() });
    }
    Ok(Lists {
        allow: typed.allow.into_iter().map(|network| network.0.into()).collect(),
        deny: typed.deny.into_iter().map(|network| network.into_inner().0.into()).collect(),
        deny_files: typed.deny_files,
        keep_ssh: typed.keep_ssh.unwrap_or(defaults.keep_ssh),
    })
}

/// Returns the configured path of `what`, or the default; the path must be absolute.
fn absolute(what: &str, typed: Option<Spanned<PathBuf>>, default: PathBuf) -> Result<PathBuf, Problem> {
    let Some(path) = typed else { return Ok(default) };
    match path_problem(what, path.as_ref()) {
        Some(message) => Err(Problem { message, span: path.span() }),
        None => Ok(path.into_inner()),
    }
}

/// Returns the problem with this path of `what`, if it is not absolute.
pub(super) fn path_problem(what: &str, path: &Path) -> Option<String> {
    let message = || format!("\"{}\" is not a valid path for {what}: it must start with /", path.display());
    (!path.is_absolute()).then(message)
}

fn notify(typed: NotifyFile, defaults: Notify) -> Result<Notify, Problem> {
    if let Some(command) = &typed.command
        && !command.as_ref().first().is_none_or(|program| Path::new(program).is_absolute())
    {
        let message =
            "the command must begin with the absolute path of a program, as in [\"/usr/local/bin/page\", \"--now\"]";
        return Err(Problem { message: message.to_owned(), span: command.span() });
    }
    if let Some(url) = &typed.webhook {
        let parsed = url.as_ref().parse::<hyper::Uri>().ok();
        let is_sound =
            parsed.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
        if !is_sound {
            let message =
                format!("\"{}\" is not a valid webhook URL: it must begin with http:// or https://", url.as_ref());
            return Err(Problem { message, span: url.span() });
        }
    }
    Ok(Notify {
        command: typed.command.map_or(defaults.command, Spanned::into_inner),
        webhook: typed.webhook.map(Spanned::into_inner),
        timeout: within(typed.timeout, defaults.timeout, &(Duration::from_secs(1)..=Duration::from_secs(60)))?,
        retries: within(typed.retries, defaults.retries, &(0..=10))?,
        most_per_hour: within(typed.most_per_hour, defaults.most_per_hour, &(1..=3600))?,
    })
}

fn services(typed: Vec<ServiceFile>) -> Result<Vec<Service>, Problem> {
    let mut services: Vec<Service> = Vec::new();
    for typed in typed {
        let span = typed.ports.span();
        let next = service(typed)?;
        let is_taken = |port: &&u16| services.iter().any(|service| service.ports.contains(port));
        if let Some(port) = next.ports.iter().find(is_taken) {
            return Err(Problem { message: format!("port {port} is in two services"), span });
        }
        services.push(next);
    }
    Ok(services)
}

fn service(typed: ServiceFile) -> Result<Service, Problem> {
    let span = typed.ports.span();
    let ports = typed.ports.into_inner();
    if ports.is_empty() || ports.contains(&0) {
        return Err(Problem { message: "a service needs at least one port, from 1 to 65535".to_owned(), span });
    }
    let default = Config::default().thresholds.max_half_open;
    Ok(Service { ports, max_half_open: within(typed.max_half_open, default, &(1..=10_000_000))? })
}

fn listen(typed: ListenFile, defaults: Listen) -> Result<Listen, Problem> {
    if let Some(socket) = &typed.socket
        && let Some(message) = socket_problem(socket.as_ref())
    {
        return Err(Problem { message, span: socket.span() });
    }
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if let Some(bad) = typed.hosts.iter().find(|host| !is_name(host.as_ref())) {
        let message = format!("\"{}\" is not a host name such as guard.example.org, without a port", bad.as_ref());
        return Err(Problem { message, span: bad.span() });
    }
    Ok(Listen {
        hosts: typed.hosts.into_iter().map(Spanned::into_inner).collect(),
        http: typed.http.map_or(defaults.http, Spanned::into_inner),
        socket: typed.socket.map_or(defaults.socket, Spanned::into_inner),
    })
}
