//! A machine that runs while a test on this host talks to it, over two cables.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Kernel, machine_arguments};
use crate::{
    addresses::{CLIENT_INTERFACE, CLIENT_IPV4, CLIENT_MAC, SECOND_CLIENT_INTERFACE, SERVER_IPV4, SERVER_MAC, mac},
    namespace::Namespace,
    process::KilledOnDrop,
};

/// This host's address on the second cable.
pub const SECOND_CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);
/// The machine's address on the second cable.
pub const SECOND_SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 1);

/// The machine's processors and queues.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    /// Processors that are online.
    pub online: u32,
    /// Processors that the kernel has to expect: more may be plugged in.
    pub possible: u32,
    /// Pairs of queues of each network interface, among which the host's TAP device spreads connections by their hash, as
    /// hardware does (RSS).
    pub queues: u32,
}

/// A running machine; it is powered off when this value is dropped.
pub struct Running {
    _qemu: KilledOnDrop,
    /// The namespace at the other end of both cables. It is made for the machine and has no uplink.
    pub client: Namespace,
    folder: TempDir,
}

impl Running {
    /// Boots `kernel` with `image`.
    ///
    /// Packets reach the machine with complete checksums and one by one: virtio-net accepts native XDP only without
    /// receive offloads.
    ///
    /// # Errors
    /// Returns an error if qemu is not installed, or the kernel lacks TUN.
    pub fn boot(kernel: &Kernel, image: &Path, processors: Processors) -> Result<Self> {
        let client = Namespace::new()?;
        for (interface, address) in [(CLIENT_INTERFACE, CLIENT_IPV4), (SECOND_CLIENT_INTERFACE, SECOND_CLIENT_IPV4)] {
            let queues = if processors.queues > 1 { "multi_queue" } else { "" };
            client.ip(&format!("tuntap add dev {interface} mode tap {queues}"))?;
            client.ip(&format!("link set {interface} address {} up", mac(CLIENT_MAC)))?;
            client.ip(&format!("addr add {address}/30 dev {interface}"))?;
        }
        for (server, interface) in [(SERVER_IPV4, CLIENT_INTERFACE), (SECOND_SERVER_IPV4, SECOND_CLIENT_INTERFACE)] {
            client.ip(&format!("neigh replace {server} lladdr {} dev {interface}", mac(SERVER_MAC)))?;
        }
        let folder = tempfile::tempdir().context("cannot create a directory for the machine")?;
        let output = fs::File::create(console(&folder)).context("cannot create the console file")?;
        let mut qemu = client.command("qemu-system-x86_64");
        machine_arguments(&mut qemu, kernel, image);
        let Processors { online, possible, queues } = processors;
        qemu.args(["-smp", &format!("{online},maxcpus={possible}"), "-m", "2048", "-no-reboot"]);
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
        for interface in [CLIENT_INTERFACE, SECOND_CLIENT_INTERFACE] {
            let (several, mq) = if queues > 1 { (format!(",queues={queues}"), "on") } else { (String::new(), "off") };
            // A vector for each queue, one for the configuration and one for control.
            let vectors = 2 * queues + 2;
            qemu.arg("-netdev")
                .arg(format!("tap,id={interface},ifname={interface},script=no,downscript=no,vhost=off{several}"));
            qemu.arg("-device").arg(format!(
                "virtio-net-pci,netdev={interface},mac={},mq={mq},vectors={vectors},\
                 guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off",
                mac(SERVER_MAC)
            ));
        }
        let qemu = qemu
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the console file")?)
            .stderr(output)
            .spawn()
            .context("cannot start qemu (Debian package: qemu-system-x86)")?;
        Ok(Self { _qemu: KilledOnDrop(qemu), client, folder })
    }

    /// Returns what the machine has printed.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn console(&self) -> Result<String> {
        let printed = fs::read(console(&self.folder)).context("cannot read the console file")?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}

fn console(folder: &TempDir) -> PathBuf {
    folder.path().join("console")
}
