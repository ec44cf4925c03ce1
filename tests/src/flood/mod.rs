//! Floods: XDP live frames (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`), about a million frames per second
//! from one core, counted exactly, through the server's complete receive path.

pub mod plan;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions},
};
use plan::{MAX_TEMPLATE, Plan, Progress, Template};

use crate::{
    frame::{self, Frame, LINUX_SYN_OPTIONS},
    namespace::Namespace,
    network::{CLIENT_INTERFACE, Lab, SECOND_CLIENT_INTERFACE, SERVER_IPV4, SERVER_IPV6},
    reply_path::{OBJECT, program},
    wait::{GoesOn, beside},
};

/// Maximum number of frames in flight in the kernel.
const BATCH: u32 = 64;
/// Runs per second. Setting up each run takes milliseconds.
const CHUNKS_PER_SECOND: u32 = 15;
/// Maximum duration of a flood.
const MAX_DURATION: Duration = Duration::from_secs(900);

/// The source addresses of a flood.
#[derive(Clone, Copy, Debug)]
pub enum Sources {
    /// First address and number of consecutive addresses, used in turn. Each sends the same number of frames if the
    /// total is a multiple of the number of addresses.
    InTurn(IpAddr, u64),
    /// First address and number of consecutive addresses, chosen at random; 0 stands for all 2^64 of an IPv6 /64.
    Random(IpAddr, u64),
}

impl Sources {
    /// 65,536 random IPv4 sources (198.19.0.0/16), none of which is a real client.
    pub const RANDOM_IPV4: Self = Self::Random(IpAddr::V4(Ipv4Addr::new(198, 19, 0, 0)), 65_536);
    /// Random sources of one IPv6 /64.
    pub const RANDOM_IPV6: Self = Self::Random(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 0)), 0);

    /// Returns the first source.
    pub const fn first(self) -> IpAddr {
        match self {
            Self::InTurn(first, _) | Self::Random(first, _) => first,
        }
    }

    const fn count(self) -> u64 {
        match self {
            Self::InTurn(_, count) | Self::Random(_, count) => count,
        }
    }
}

/// What the frames of a flood look like.
#[derive(Clone, Debug)]
pub struct FloodSpec {
    /// Source addresses.
    pub sources: Sources,
    /// The destination; `None` for the server's address.
    pub destination: Option<IpAddr>,
    /// First source port and number of ports. With sources in turn, the port changes after each round of the sources.
    pub source_ports: (u16, u16),
    /// First destination port and number of ports.
    pub destination_ports: (u16, u16),
    /// TCP flags.
    pub flags: u8,
    /// TCP options, in wire format.
    pub tcp_options: Vec<u8>,
    /// IPv4 options, in wire format.
    pub ip_options: Vec<u8>,
    /// EtherTypes of the VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// Length of the TCP payload, in bytes.
    pub payload: usize,
    /// TTL or hop limit.
    pub time_to_live: u8,
    /// Sequence number of the first connection; ignored for random sources.
    pub sequence: u32,
}

impl FloodSpec {
    /// SYNs as sent by Linux, to one port.
    pub fn syn(sources: Sources, port: u16) -> Self {
        Self {
            sources,
            destination: None,
            source_ports: (1024, 60_000),
            destination_ports: (port, 1),
            flags: frame::SYN,
            tcp_options: LINUX_SYN_OPTIONS.to_vec(),
            ip_options: Vec::new(),
            tags: Vec::new(),
            payload: 0,
            time_to_live: 64,
            sequence: 5_000_000,
        }
    }

    /// SYNs as sent by Linux, from 198.18.1.1 to one port.
    pub fn one_source(port: u16) -> Self {
        Self::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 1, 1).into(), 1), port)
    }

    /// Sets the destination.
    #[must_use]
    pub fn to(mut self, destination: IpAddr) -> Self {
        self.destination = Some(destination);
        self
    }

    /// Returns the frame that all frames are derived from.
    pub fn template(&self) -> Frame {
        let first = self.sources.first();
        let usual = if first.is_ipv4() { IpAddr::V4(SERVER_IPV4) } else { IpAddr::V6(SERVER_IPV6) };
        let server = self.destination.unwrap_or(usual);
        let mut frame = Frame::syn(first, server, self.destination_ports.0).flags(self.flags);
        frame.tcp_options.clone_from(&self.tcp_options);
        frame.ip_options.clone_from(&self.ip_options);
        frame.tags.clone_from(&self.tags);
        frame.payload = vec![0x55; self.payload];
        frame.time_to_live = self.time_to_live;
        frame
    }

    /// Returns the BPF program's plan for frames derived from `template`.
    fn plan(&self, template: &frame::Built, seed: u64) -> Plan {
        let first = self.sources.first();
        let (is_ipv6, source_base, source_offset, source_length) = match first {
            IpAddr::V4(address) => (0, u64::from(u32::from(address)), template.ip + 12, 4),
            IpAddr::V6(address) => (1, u128::from(address) as u64, template.ip + 8 + 8, 8),
        };
        let sum_without = |bytes: &[u8], gaps: &[(usize, usize)]| {
            let mut bytes = bytes.to_vec();
            for (start, length) in gaps {
                bytes[*start..start + length].fill(0);
            }
            u32::from(frame::fold(frame::sum(&bytes)))
        };
        let segment = &template.bytes[template.tcp..];
        // Ports, sequence number and checksum vary, as does the source address in the pseudo-header.
        let segment_sum = sum_without(segment, &[(0, 8), (16, 2)]);
        let addresses =
            if is_ipv6 == 1 { template.ip + 8..template.ip + 40 } else { template.ip + 12..template.ip + 20 };
        let start = addresses.start;
        let address_sum = sum_without(&template.bytes[addresses], &[(source_offset - start, source_length)]);
        let tcp_partial_sum = segment_sum + address_sum + 6 + segment.len() as u32;
        let header = &template.bytes[template.ip..template.tcp];
        let ip_partial_sum = if is_ipv6 == 1 { 0 } else { sum_without(header, &[(10, 2), (12, 4)]) };
        let mut link_header = [0; plan::MAX_LINK_HEADER];
        for (word, bytes) in link_header.iter_mut().zip(template.bytes[..template.ip].chunks_exact(2)) {
            *word = u16::from_be_bytes([bytes[0], bytes[1]]);
        }
        Plan {
            link_header,
            link_header_words: (template.ip / 2) as u16,
            seed,
            source_base,
            sources: self.sources.count(),
            source_offset: source_offset as u32,
            is_ipv6,
            ip_checksum_offset: (template.ip + 10) as u32,
            tcp_offset: template.tcp as u32,
            ip_partial_sum,
            tcp_partial_sum,
            source_port: self.source_ports.0.into(),
            source_ports: self.source_ports.1.into(),
            destination_port: self.destination_ports.0.into(),
            destination_ports: self.destination_ports.1.into(),
            random: matches!(self.sources, Sources::Random(..)).into(),
            sequence: self.sequence,
        }
    }
}

/// Loads the flood's programs with the plan for `spec`, and returns them with the template's bytes.
///
/// # Errors
/// Returns an error if the kernel rejects them.
pub fn load(spec: &FloodSpec) -> Result<(Ebpf, Vec<u8>)> {
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct PlainPlan(Plan);
    const _: () = assert!(size_of::<Plan>() == 3 * 8 + 12 * 2 + 12 * 4);
    // SAFETY: integers only, without padding, as the assertion above shows.
    unsafe impl Pod for PlainPlan {}

    let template = spec.template().build();
    let plan = PlainPlan(spec.plan(&template, 0x9e37_79b9_7f4a_7c15));
    let ebpf = EbpfLoader::new().override_global("PLAN", &plan, true).load(OBJECT).context("cannot load the flood")?;
    Ok((ebpf, template.bytes))
}

/// Makes the flood's programs rewrite the whole frame before each run, for receivers that modify it. Frames may be at
/// most [`MAX_TEMPLATE`] bytes long.
///
/// # Errors
/// Returns an error if the frame is too long.
pub fn restore_frames(ebpf: &mut Ebpf, frame: &[u8]) -> Result<()> {
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct PlainTemplate(Template);
    // SAFETY: integers of the same size, hence without padding.
    unsafe impl Pod for PlainTemplate {}

    ensure!(frame.len() <= MAX_TEMPLATE, "frames of {} bytes are too long to be rewritten", frame.len());
    let mut template = Template { length: frame.len() as u64, words: [0; MAX_TEMPLATE / 8] };
    for (word, bytes) in template.words.iter_mut().zip(frame.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    let mut map = Array::try_from(ebpf.map_mut("TEMPLATE").context("the flood has no TEMPLATE")?)?;
    map.set(0, PlainTemplate(template), 0).context("cannot write the flood's template")
}

/// A flood that is ready to be sent from the lab's client.
pub struct Flood {
    ebpf: Ebpf,
    template: Vec<u8>,
    progress: Array<MapData, PlainProgress>,
    client: Namespace,
    interface: u32,
    interface_name: String,
    /// Number of frames that the cable dropped while this flood was sent; others may have been sent between.
    lost: u64,
    /// Number of frames that the cable had dropped before this flood.
    lost_before: u64,
    /// Those of them that floods had sent.
    lost_of_floods_before: u64,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PlainProgress(Progress);
// SAFETY: two 64-bit integers.
unsafe impl Pod for PlainProgress {}

impl Flood {
    /// Prepares a flood on the client's end of the lab's first cable.
    ///
    /// # Errors
    /// See [`Flood::from_interface`].
    pub fn new(lab: &Lab, spec: &FloodSpec) -> Result<Self> {
        Self::from_interface(&lab.client, CLIENT_INTERFACE, spec)
    }

    /// Prepares a flood on an interface of the lab: it must have the name of a client's end, in a namespace other than
    /// that of this process, in which no other interface except loopback is up.
    ///
    /// # Errors
    /// Returns an error if the interface is not one of the lab's, or if the kernel rejects the programs.
    pub fn from_interface(namespace: &Namespace, interface: &str, spec: &FloodSpec) -> Result<Self> {
        refuse_unless_lab(namespace, interface)?;
        let (mut ebpf, template) = load(spec)?;
        let index = namespace.within(|| {
            let index = nix::net::if_::if_nametoindex(interface).context("the lab's cable is unplugged")?;
            program(&mut ebpf, "flood")?.load()?;
            Ok(index)
        })?;
        // The kernel reuses the memory of frames, which the receiver may have turned into replies.
        if template.len() <= MAX_TEMPLATE {
            restore_frames(&mut ebpf, &template)?;
        }
        let progress = Array::try_from(ebpf.take_map("PROGRESS").context("the flood has no PROGRESS")?)?;
        Ok(Self {
            ebpf,
            template,
            progress,
            client: namespace.clone(),
            interface: index,
            interface_name: interface.to_owned(),
            lost: 0,
            lost_before: lost(namespace, interface)?,
            lost_of_floods_before: lost_of_floods(namespace, interface)?,
        })
    }

    /// Sends exactly `count` frames as fast as possible.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects the run or not all frames arrived.
    pub fn send(&mut self, count: u32) -> Result<()> {
        let before = self.delivered()?;
        self.counting_losses(|flood| flood.make(count))?;
        let delivered = self.delivered()? - before;
        ensure!(delivered == u64::from(count), "{delivered} frames arrived instead of {count}");
        Ok(())
    }

    /// Counts what the cable drops while `send` runs.
    fn counting_losses<T>(&mut self, send: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = lost(&self.client, &self.interface_name)?;
        let result = send(self)?;
        self.lost += lost(&self.client, &self.interface_name)? - before;
        Ok(result)
    }

    /// Sends `count` frames as fast as the kernel accepts them; some may not arrive.
    fn make(&mut self, count: u32) -> Result<()> {
        let (ebpf, template, interface) = (&mut self.ebpf, &self.template, self.interface);
        self.client.within(|| {
            let context = xdp_context(template.len(), interface);
            let options = TestRunOptions {
                data_in: Some(template),
                ctx_in: Some(&context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(count)),
                ..TestRunOptions::new()
            };
            program(ebpf, "flood")?.test_run(options).map(drop).context("the kernel rejects the flood")
        })
    }

    /// Sends `rate` frames per second for `duration` and returns how many arrived.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn send_at(&mut self, rate: u32, duration: Duration) -> Result<u64> {
        self.send_at_while(rate, duration, || true)
    }

    /// Like [`Flood::send_at`], but ends as soon as `goes_on` returns false.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn send_at_while(&mut self, rate: u32, duration: Duration, goes_on: impl Fn() -> bool) -> Result<u64> {
        ensure!(duration <= MAX_DURATION, "a flood may last at most {MAX_DURATION:?}");
        let before = self.delivered()?;
        self.counting_losses(|flood| flood.send_chunks(rate, duration, goes_on))?;
        Ok(self.delivered()? - before)
    }

    fn send_chunks(&mut self, rate: u32, duration: Duration, goes_on: impl Fn() -> bool) -> Result<()> {
        let made_before = self.made()?;
        let start = Instant::now();
        let chunk = Duration::from_secs(1) / CHUNKS_PER_SECOND;
        while goes_on() && start.elapsed() < duration {
            let due = (start.elapsed() + chunk).min(duration).as_secs_f64() * f64::from(rate);
            let made = self.made()? - made_before;
            let next = (due as u64).saturating_sub(made);
            // A backlog of frames is not sent all at once.
            let most = u64::from((rate / CHUNKS_PER_SECOND * 2).max(1));
            if next > 0 {
                self.make(next.min(most) as u32)?;
            }
            let turn = (start.elapsed().as_secs_f64() / chunk.as_secs_f64()) as u32 + 1;
            sleep((chunk * turn + off_beat(turn)).saturating_sub(start.elapsed()));
        }
        Ok(())
    }

    /// Sends `rate` frames per second while `work` runs, and returns its result.
    ///
    /// # Errors
    /// Returns an error if `work` fails or the kernel rejects the flood.
    pub fn during<T>(&mut self, rate: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let send = |goes_on: GoesOn| self.send_at_while(rate, MAX_DURATION, goes_on);
        beside(send, work).map(|(result, _)| result)
    }

    /// Returns how many frames arrived so far: those sent, minus those dropped because the receiver's queue was full.
    /// Frames of the client's kernel that were dropped count as the flood's; see [`Flood::lost_of_others`].
    ///
    /// # Errors
    /// Returns an error if the counts cannot be read.
    pub fn delivered(&self) -> Result<u64> {
        Ok(self.made()? - self.lost)
    }

    /// Returns the greatest number of frames that were dropped meanwhile and are not the flood's, but segments that the
    /// client's kernel sent.
    ///
    /// # Errors
    /// Returns an error if the counts cannot be read.
    pub fn lost_of_others(&self) -> Result<u64> {
        let all = lost(&self.client, &self.interface_name)? - self.lost_before;
        let of_floods = lost_of_floods(&self.client, &self.interface_name)? - self.lost_of_floods_before;
        Ok(all - of_floods)
    }

    fn made(&self) -> Result<u64> {
        Ok(self.progress.get(&0, 0).context("cannot read the flood's count")?.0.frames)
    }
}

/// Returns an offset of less than 10 ms that differs for each turn. Otherwise, what the kernel samples with its timer
/// tick, such as the time spent in softirq, would always coincide with the same moment of a chunk.
fn off_beat(turn: u32) -> Duration {
    const GOLDEN_RATIO: f64 = 0.618_034;
    Duration::from_millis(10).mul_f64((f64::from(turn) * GOLDEN_RATIO).fract())
}

/// Returns the `struct xdp_md` of a frame received on `interface`.
fn xdp_context(length: usize, interface: u32) -> Vec<u8> {
    [0, length as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// Returns the number of frames that the cable dropped (the interface's `tx_dropped`: the peer's queue was full).
fn lost(namespace: &Namespace, interface: &str) -> Result<u64> {
    let output =
        namespace.command("ip").args(["-s", "-j", "link", "show", interface]).output().context("cannot run ip")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).context("the output of ip is not JSON")?;
    links[0]["stats64"]["tx"]["dropped"].as_u64().with_context(|| format!("ip does not show the drops of {interface}"))
}

/// Returns how many of these were sent by BPF programs, which only floods do.
fn lost_of_floods(namespace: &Namespace, interface: &str) -> Result<u64> {
    let output = namespace.command("ethtool").args(["-S", interface]).output().context("cannot run ethtool")?;
    let errors_of = |line: &str| -> Option<Result<u64>> {
        let (_, errors) = line.trim().strip_prefix("tx_queue_")?.split_once("_xdp_xmit_errors: ")?;
        Some(errors.parse().context("ethtool shows no number"))
    };
    String::from_utf8(output.stdout)?.lines().filter_map(errors_of).sum()
}

/// The client's ends of the cables.
const ENDS: [&str; 2] = [CLIENT_INTERFACE, SECOND_CLIENT_INTERFACE];

fn refuse_unless_lab(namespace: &Namespace, interface: &str) -> Result<()> {
    ensure!(
        ENDS.contains(&interface),
        "a flood may be sent from the lab's {CLIENT_INTERFACE} only, not from {interface}"
    );
    let own = std::fs::metadata("/proc/self/ns/net").context("cannot read this process's namespace")?.ino();
    ensure!(
        namespace.inode()? != own,
        "a flood may be sent in a namespace of the lab only, not in that of this process"
    );
    let links = namespace.command("ip").args(["-o", "link", "show", "up"]).output().context("cannot run ip")?;
    ensure!(links.status.success(), "cannot list the namespace's interfaces");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    let names = links.lines().filter_map(|line| line.split([' ', '@', ':']).filter(|part| !part.is_empty()).nth(1));
    for name in names {
        ensure!(
            name == "lo" || ENDS.contains(&name),
            "a flood may be sent in a namespace without an uplink only: {name} is up"
        );
    }
    Ok(())
}
