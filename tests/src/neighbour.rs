//! Another XDP program on the server's interface, as other tools put theirs there: it counts what passes by it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{SchedClassifier, TcAttachType, Xdp},
};

use crate::{flood::OBJECT, network::Lab};

/// Where the program is pinned for as long as it takes to attach it.
const PIN: &str = "/sys/fs/bpf/lab-neighbour";

/// The program. What is attached stays so when this is dropped: it is the interface that holds it.
pub struct Neighbour {
    _ebpf: Ebpf,
    seen: Array<MapData, u64>,
    /// Its id.
    pub id: u32,
}

impl Neighbour {
    /// Puts it on `interface`, as `ip link set … xdp` does.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn attach(lab: &Lab, interface: &str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the neighbour")?;
        let program: &mut Xdp = ebpf.program_mut("neighbour").context("no neighbour")?.try_into()?;
        program.load()?;
        let id = program.info()?.id();
        let pin = PathBuf::from(format!("{PIN}-{}-{id}", std::process::id()));
        program.pin(&pin)?;
        let attached = lab.server.ip(&format!("link set dev {interface} xdp pinned {}", pin.display()));
        fs::remove_file(&pin).context("cannot remove the neighbour's pin")?;
        attached?;
        let seen = Array::try_from(ebpf.take_map("SEEN").context("it counts")?)?;
        let neighbour = Self { _ebpf: ebpf, seen, id };
        ensure!(program_on(lab, interface)? == Some(id), "it is not attached");
        Ok(neighbour)
    }

    /// Frames that it has seen.
    ///
    /// # Errors
    /// Returns an error if the count cannot be read.
    pub fn seen(&self) -> Result<u64> {
        self.seen.get(&0, 0).context("cannot read the neighbour's count")
    }
}

/// Whether an interface of the server's has an XDP program.
///
/// # Errors
/// Returns an error if `ip` cannot be run.
pub fn has_xdp(lab: &Lab, interface: &str) -> Result<bool> {
    Ok(program_on(lab, interface)?.is_some())
}

/// The id of the XDP program on an interface of the server's, where there is one.
///
/// # Errors
/// Returns an error if `ip` cannot be run.
pub fn program_on(lab: &Lab, interface: &str) -> Result<Option<u32>> {
    let output = lab.server.command("ip").args(["-d", "link", "show", interface]).output().context("cannot run ip")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    id.map(|id| id.parse().context("no number")).transpose()
}

/// How many programs an interface of the server's has at traffic control (TCX), on its way in.
///
/// # Errors
/// Returns an error if the kernel does not say.
pub fn programs_at_tc(lab: &Lab, interface: &str) -> Result<usize> {
    lab.server.within(|| {
        let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)
            .with_context(|| format!("cannot tell what {interface} has at traffic control"))?;
        Ok(programs.len())
    })
}
