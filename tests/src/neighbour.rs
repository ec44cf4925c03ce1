//! Another XDP program on the server's interface, attached as other tools attach theirs. It counts frames.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{SchedClassifier, TcAttachType, Xdp},
};

use crate::{network::Lab, reply_path::OBJECT};

/// Prefix of the path under which the program is pinned while it is being attached.
const PIN: &str = "/sys/fs/bpf/lab-neighbour";

/// The other program. It stays attached when this value is dropped, since the interface holds the reference.
pub struct Neighbour {
    _ebpf: Ebpf,
    seen: Array<MapData, u64>,
    /// The id of the program.
    pub id: u32,
}

impl Neighbour {
    /// Attaches the program to `interface` with `ip link set … xdp`.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn attach(lab: &Lab, interface: &str) -> Result<Self> {
        tcpguard::datapath::ensure_bpffs(Path::new(PIN)).context("the neighbour is pinned while it is attached")?;
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the neighbour")?;
        let program: &mut Xdp =
            ebpf.program_mut("neighbour").context("the object has no program neighbour")?.try_into()?;
        program.load()?;
        let id = program.info()?.id();
        let pin = PathBuf::from(format!("{PIN}-{}-{id}", std::process::id()));
        program.pin(&pin)?;
        let attached = lab.server.ip(&format!("link set dev {interface} xdp pinned {}", pin.display()));
        fs::remove_file(&pin).context("cannot remove the neighbour's pin")?;
        attached?;
        let seen = Array::try_from(ebpf.take_map("SEEN").context("the object has no map SEEN")?)?;
        let neighbour = Self { _ebpf: ebpf, seen, id };
        ensure!(program_on(lab, interface)? == Some(id), "the neighbour is not attached");
        Ok(neighbour)
    }

    /// Returns the number of frames the program has seen.
    ///
    /// # Errors
    /// Returns an error if the count cannot be read.
    pub fn seen(&self) -> Result<u64> {
        self.seen.get(&0, 0).context("cannot read the neighbour's count")
    }
}

/// Returns whether an interface of the server has an XDP program.
///
/// # Errors
/// Returns an error if `ip` cannot be run.
pub fn has_xdp(lab: &Lab, interface: &str) -> Result<bool> {
    Ok(program_on(lab, interface)?.is_some())
}

/// Returns the id of the XDP program on an interface of the server, if there is one.
///
/// # Errors
/// Returns an error if `ip` cannot be run.
pub fn program_on(lab: &Lab, interface: &str) -> Result<Option<u32>> {
    let output = lab.server.command("ip").args(["-d", "link", "show", interface]).output().context("cannot run ip")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    id.map(|id| id.parse().context("the program's id is not a number")).transpose()
}

/// Returns the number of programs at the ingress of traffic control (TCX) on an interface of the server.
///
/// # Errors
/// Returns an error if the query fails.
pub fn programs_at_tc(lab: &Lab, interface: &str) -> Result<usize> {
    lab.server.within(|| {
        let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)
            .with_context(|| format!("cannot query the programs at traffic control of {interface}"))?;
        Ok(programs.len())
    })
}
