//! A machine with a daemon, as this host sees it.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Client, Stats,
    addresses::{CLIENT_INTERFACE, SECOND_CLIENT_INTERFACE, SERVER_IPV4},
    eventually,
    frame::Frame,
    http,
    machine::{Image, Kernel, Processors, Running},
    wire::{Wire, linux_syn},
};
use xtask::bpf::toolchain::target_folder;

use crate::guest::{CONTROL_PORT, Order};

/// How long a machine with a single processor may take to boot, and the daemon to start.
const PATIENCE: Duration = Duration::from_secs(90);
/// How much longer with each further processor: the emulated ones share two real ones, and the kernel brings up one after the
/// other.
const PATIENCE_EACH: Duration = Duration::from_secs(6);
/// How long the machine may take for an order.
const ORDER: Duration = Duration::from_secs(30);
const HTTP_PORT: u16 = 9477;
/// Modules for the network interfaces, and for reading the kernel's sockets.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "inet_diag", "tcp_diag", "sch_ingress", "cls_bpf"];
/// The pause between two frames, so that no queue overflows.
const PAUSE: Duration = Duration::from_millis(2);

/// A running machine, and raw sockets on both cables to it.
pub struct Guarded {
    machine: Running,
    patience: Duration,
    /// The ends of both cables.
    pub wires: [Wire; 2],
}

impl Guarded {
    /// Boots a machine with this program in it. It has no daemon yet.
    pub fn boot(kernel: &Kernel, processors: Processors) -> Result<Self> {
        let mut image = Image::new()?;
        let program = std::env::current_exe().context("cannot determine the path of this program")?;
        image.add_program(&program, "processors")?;
        image.add_program(&lab::build::binary()?, "tcpguard")?;
        image.add_tool("ip")?;
        image.add_modules(kernel, &MODULES)?;
        let file = target_folder().join("kernels").join(format!("processors-{}.cpio", std::process::id()));
        image.write("/processors --guest", &file)?;
        let machine = Running::boot(kernel, &file, processors)?;
        let open = |interface| Wire::open_on(&machine.client, interface);
        let wires = [open(CLIENT_INTERFACE)?, open(SECOND_CLIENT_INTERFACE)?];
        let patience = PATIENCE + PATIENCE_EACH * processors.online;
        let guarded = Self { machine, patience, wires };
        guarded.wait_until("the machine has booted", || guarded.order(&Order::Interrupts))?;
        std::fs::remove_file(&file).context("cannot remove the image")?;
        Ok(guarded)
    }

    /// Starts the daemon with this configuration, in which addresses to listen on and interfaces are missing.
    pub fn guard(&self, config: &str) -> Result<()> {
        let config = format!(
            "interfaces = [\"eth0\", \"eth1\"]\n{config}\n[listen]\nhttp = \"0.0.0.0:{HTTP_PORT}\"\n\
             socket = \"/tmp/tcpguard.sock\"\n[store]\npath = \"/tmp/store/tcpguard.sqlite\"\n"
        );
        let answer = self.order(&Order::Guard(&config)).context("cannot start the daemon")?;
        ensure!(answer == "started", "{answer}");
        self.wait_until("the daemon is ready", || {
            let (status, body) = self.get("/readyz")?;
            ensure!(status == 200, "{status} {body}");
            Ok(body)
        })
        .map(drop)
    }

    /// Returns `/stats`.
    pub fn stats(&self) -> Result<Stats> {
        let (status, body) = self.get("/stats").context("cannot read /stats")?;
        ensure!(status == 200, "/stats: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("/stats is not of the model: {body}"))
    }

    /// Waits until `/stats` satisfies `is_right`, and returns it.
    pub fn stats_when(&self, what: &str, is_right: impl Fn(&Stats) -> bool) -> Result<Stats> {
        eventually(what, || self.stats(), |stats| is_right(stats)).or_else(|error| self.explained(error))
    }

    /// Returns the interrupts of each queue on which packets arrive, summed over the processors.
    pub fn interrupts(&self) -> Result<Vec<(String, u64)>> {
        let text = self.order(&Order::Interrupts)?;
        let queue = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next_back().filter(|name| name.contains("-input."))?.to_owned();
            Some((name, words.skip(1).map_while(|word| word.parse::<u64>().ok()).sum()))
        };
        Ok(text.lines().filter_map(queue).collect())
    }

    /// Sends SYNs of these sources and ports, in turn on one cable and on the other.
    pub fn send(&self, sources: impl IntoIterator<Item = (IpAddr, u16)>, port: u16) -> Result<()> {
        for (number, (source, source_port)) in sources.into_iter().enumerate() {
            self.wires[number % 2].send(&Frame { source_port, ..linux_syn(source, SERVER_IPV4.into(), port) })?;
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Returns a client with the addresses of this host.
    pub fn client(&self) -> Client {
        Client::in_namespace(&self.machine.client)
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.connect(HTTP_PORT)?, path)
    }

    fn order(&self, order: &Order) -> Result<String> {
        let mut stream = self.connect(CONTROL_PORT)?;
        stream.set_read_timeout(Some(ORDER)).context("cannot set a timeout")?;
        stream.write_all(order.text().as_bytes()).context("cannot send the order")?;
        stream.shutdown(Shutdown::Write).context("cannot end the order")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the order is not answered")?;
        Ok(answer)
    }

    fn connect(&self, port: u16) -> Result<TcpStream> {
        self.client().connect(SocketAddr::from((SERVER_IPV4, port)))
    }

    fn wait_until(&self, what: &str, mut attempt: impl FnMut() -> Result<String>) -> Result<String> {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(error) if start.elapsed() > self.patience => {
                    return self.explained(error.context(format!("{what}: not within {:?}", self.patience)));
                }
                Err(_) => sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Fails with an error, to which it adds what the machine says.
    fn explained<T>(&self, error: anyhow::Error) -> Result<T> {
        let log = self.order(&Order::Log).unwrap_or_else(|error| format!("no log: {error:#}"));
        bail!("{error:#}\n{log}\n{}", self.machine.console()?)
    }
}
