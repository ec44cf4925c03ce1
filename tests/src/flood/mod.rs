//! Floods: XDP live frames (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`), about a million
//! frames a second from one core, counted to the frame, through the whole receive path of the server.

pub mod plan;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use plan::{LONGEST_TEMPLATE, Plan, Progress, Template};

use crate::{
    frame::{self, Frame, LINUX_SYN_OPTIONS},
    namespace::Namespace,
    network::{CLIENT_INTERFACE, Lab, SECOND_CLIENT_INTERFACE, SERVER_IPV4, SERVER_IPV6},
};

/// The flood program.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood.bpf.o"));

/// Frames in flight within the kernel at once.
const BATCH: u32 = 64;
/// Setting up each run costs milliseconds.
const CHUNKS_PER_SECOND: u32 = 15;
/// Nothing here runs for longer.
const LONGEST: Duration = Duration::from_secs(900);

/// Who a flood claims to come from.
#[derive(Clone, Copy, Debug)]
pub enum Sources {
    /// So many, one after the other, from this one on. Each sends the same number of frames, if the
    /// whole number can be divided.
    InTurn(IpAddr, u64),
    /// So many, at random, from this one on.
    Random(IpAddr, u64),
}

impl Sources {
    /// Random sources of 198.18.64.0/18 and up: 65,536 of them, none of which is a real client.
    pub const RANDOM_IPV4: Self = Self::Random(IpAddr::V4(Ipv4Addr::new(198, 19, 0, 0)), 65_536);
    /// Random sources of one /64.
    pub const RANDOM_IPV6: Self = Self::Random(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 0)), 0);

    /// The first of them.
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

/// What a flood is made of.
#[derive(Clone, Debug)]
pub struct FloodSpec {
    /// Who it claims to come from.
    pub sources: Sources,
    /// First source port and how many; in turn, they change once all sources have had theirs.
    pub source_ports: (u16, u16),
    /// First destination port and how many.
    pub destination_ports: (u16, u16),
    /// TCP flags.
    pub flags: u8,
    /// TCP options.
    pub tcp_options: Vec<u8>,
    /// IPv4 options.
    pub ip_options: Vec<u8>,
    /// VLAN tags.
    pub tags: Vec<u16>,
    /// Bytes of data.
    pub payload: usize,
    /// First sequence number, in turn.
    pub sequence: u32,
}

impl FloodSpec {
    /// SYNs such as Linux sends, to one port.
    pub fn syn(sources: Sources, port: u16) -> Self {
        Self {
            sources,
            source_ports: (1024, 60_000),
            destination_ports: (port, 1),
            flags: frame::SYN,
            tcp_options: LINUX_SYN_OPTIONS.to_vec(),
            ip_options: Vec::new(),
            tags: Vec::new(),
            payload: 0,
            sequence: 5_000_000,
        }
    }

    /// The same from the first address of the pool of sources alone.
    pub fn one_source(port: u16) -> Self {
        Self::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 1, 1).into(), 1), port)
    }

    /// The frame that all are made from.
    pub fn template(&self) -> Frame {
        let first = self.sources.first();
        let server = if first.is_ipv4() { IpAddr::V4(SERVER_IPV4) } else { IpAddr::V6(SERVER_IPV6) };
        let mut frame = Frame::syn(first, server, self.destination_ports.0).flags(self.flags);
        frame.tcp_options.clone_from(&self.tcp_options);
        frame.ip_options.clone_from(&self.ip_options);
        frame.tags.clone_from(&self.tags);
        frame.payload = vec![0x55; self.payload];
        frame
    }

    /// The program's plan for frames like `template`.
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
        // Ports, sequence number and checksum vary; so does the source within the pseudo-header.
        let segment_sum = sum_without(segment, &[(0, 8), (16, 2)]);
        let addresses =
            if is_ipv6 == 1 { template.ip + 8..template.ip + 40 } else { template.ip + 12..template.ip + 20 };
        let start = addresses.start;
        let address_sum = sum_without(&template.bytes[addresses], &[(source_offset - start, source_length)]);
        let tcp_partial_sum = segment_sum + address_sum + 6 + segment.len() as u32;
        let header = &template.bytes[template.ip..template.tcp];
        let ip_partial_sum = if is_ipv6 == 1 { 0 } else { sum_without(header, &[(10, 2), (12, 4)]) };
        let mut link_header = [0; plan::LONGEST_LINK_HEADER];
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

/// Loads the flood's programs with the plan for `spec`; the template's bytes come with them.
///
/// # Errors
/// Returns an error if the kernel refuses them.
pub fn load(spec: &FloodSpec) -> Result<(Ebpf, Vec<u8>)> {
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct PlainPlan(Plan);
    const _: () = assert!(size_of::<Plan>() == 3 * 8 + 12 * 2 + 12 * 4);
    // SAFETY: integers only, in an order that leaves no gap, as the line above shows.
    unsafe impl Pod for PlainPlan {}

    let template = spec.template().build();
    let plan = PlainPlan(spec.plan(&template, 0x9e37_79b9_7f4a_7c15));
    let ebpf = EbpfLoader::new().override_global("PLAN", &plan, true).load(OBJECT).context("cannot load the flood")?;
    Ok((ebpf, template.bytes))
}

/// Has frames written anew before each run: what they are given to may change them. They have to be short for
/// that.
///
/// # Errors
/// Returns an error if the frame is too long.
pub fn restore_frames(ebpf: &mut Ebpf, frame: &[u8]) -> Result<()> {
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct PlainTemplate(Template);
    // SAFETY: integers only, of the same size.
    unsafe impl Pod for PlainTemplate {}

    ensure!(frame.len() <= LONGEST_TEMPLATE, "frames of {} bytes cannot be written anew", frame.len());
    let mut template = Template { length: frame.len() as u64, words: [0; LONGEST_TEMPLATE / 8] };
    for (word, bytes) in template.words.iter_mut().zip(frame.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    let mut map = Array::try_from(ebpf.map_mut("TEMPLATE").context("the flood has no TEMPLATE")?)?;
    map.set(0, PlainTemplate(template), 0).context("the flood's template cannot be written")
}

/// A flood that is ready to run from the lab's client.
pub struct Flood {
    ebpf: Ebpf,
    template: Vec<u8>,
    progress: Array<MapData, PlainProgress>,
    client: Namespace,
    interface: u32,
    interface_name: String,
    /// Frames that the cable had lost before this flood.
    lost_before: u64,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PlainProgress(Progress);
// SAFETY: two 64-bit integers.
unsafe impl Pod for PlainProgress {}

impl Flood {
    /// Gets a flood ready at the lab's client.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses its programs, or see [`Flood::from_interface`].
    pub fn new(lab: &Lab, spec: &FloodSpec) -> Result<Self> {
        Self::from_interface(&lab.client, CLIENT_INTERFACE, spec)
    }

    /// Gets a flood ready at an interface, which must be the lab's: of its name, in a namespace that
    /// is not this process's own, and in which nothing else is up.
    ///
    /// # Errors
    /// Returns an error if the interface is any other.
    pub fn from_interface(namespace: &Namespace, interface: &str, spec: &FloodSpec) -> Result<Self> {
        refuse_unless_lab(namespace, interface)?;
        let (mut ebpf, template) = load(spec)?;
        let index = namespace.within(|| {
            let index = nix::net::if_::if_nametoindex(interface).context("the lab's cable is unplugged")?;
            program(&mut ebpf, "flood")?.load()?;
            Ok(index)
        })?;
        // The memory of frames is used again with what the receiver has made of them: an answer.
        if template.len() <= LONGEST_TEMPLATE {
            restore_frames(&mut ebpf, &template)?;
        }
        let progress = Array::try_from(ebpf.take_map("PROGRESS").context("the flood counts its frames")?)?;
        Ok(Self {
            ebpf,
            template,
            progress,
            client: namespace.clone(),
            interface: index,
            interface_name: interface.to_owned(),
            lost_before: lost(namespace, interface)?,
        })
    }

    /// Sends exactly `count` frames, each of which arrives.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses, or the cable lost some.
    pub fn send(&mut self, count: u32) -> Result<()> {
        let before = self.delivered()?;
        self.make(count)?;
        let delivered = self.delivered()? - before;
        ensure!(delivered == u64::from(count), "{delivered} frames arrived instead of {count}");
        Ok(())
    }

    /// Makes `count` frames, as fast as the kernel takes them.
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
            program(ebpf, "flood")?.test_run(options).map(drop).context("the kernel refuses to send the flood")
        })
    }

    /// Sends at `rate` frames a second for `duration`; returns how many arrived.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn send_at(&mut self, rate: u32, duration: Duration) -> Result<u64> {
        self.send_at_while(rate, duration, || true)
    }

    /// The same, but ends early once `goes_on` is false.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn send_at_while(&mut self, rate: u32, duration: Duration, goes_on: impl Fn() -> bool) -> Result<u64> {
        ensure!(duration <= LONGEST, "a flood may last {LONGEST:?} at most");
        let (before, made_before) = (self.delivered()?, self.made()?);
        let start = Instant::now();
        let chunk = Duration::from_secs(1) / CHUNKS_PER_SECOND;
        while goes_on() && start.elapsed() < duration {
            let due = (start.elapsed() + chunk).min(duration).as_secs_f64() * f64::from(rate);
            let made = self.made()? - made_before;
            let next = (due as u64).saturating_sub(made);
            // What cannot be kept up with is not made up for all at once.
            let most = u64::from((rate / CHUNKS_PER_SECOND * 2).max(1));
            if next > 0 {
                self.make(next.min(most) as u32)?;
            }
            let turn = (start.elapsed().as_secs_f64() / chunk.as_secs_f64()) as u32 + 1;
            sleep((chunk * turn + off_beat(turn)).saturating_sub(start.elapsed()));
        }
        Ok(self.delivered()? - before)
    }

    /// Sends at `rate` for as long as `work` does, and returns what that does.
    ///
    /// # Errors
    /// Returns an error if the work fails, or the kernel refuses.
    pub fn during<T>(&mut self, rate: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| self.send_at_while(rate, LONGEST, || !is_over.load(Ordering::Relaxed)));
            let result = work();
            is_over.store(true, Ordering::Relaxed);
            sender.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            result
        })
    }

    /// How many frames arrived so far: those made, less those that found the receiver's queue full.
    ///
    /// # Errors
    /// Returns an error if the counts cannot be read.
    pub fn delivered(&self) -> Result<u64> {
        Ok(self.made()? - (lost(&self.client, &self.interface_name)? - self.lost_before))
    }

    fn made(&self) -> Result<u64> {
        Ok(self.progress.get(&0, 0).context("cannot read the flood's count")?.0.frames)
    }
}

/// The client's end of the cable with a program that passes everything: with none at the receiving end
/// of an XDP_TX, veth delivers late; and without one, veth has no queue that live frames could be said
/// to come from. It stays as long as the cable, since taking it off and on may leave veth deaf.
#[derive(Debug)]
pub struct ReplyPath {
    _ebpf: Ebpf,
}

impl ReplyPath {
    /// Attaches the program to `interface` of the namespace that this runs in.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn attach(interface: &str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the reply path")?;
        let reply_path = program(&mut ebpf, "reply_path")?;
        reply_path.load()?;
        reply_path
            .attach(interface, XdpMode::Driver)
            .context("cannot get the client's interface ready for live frames")?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// A part of a kernel's tick, another one with each turn: what the kernel samples with its tick, as the time
/// that it spends in softirq, would otherwise meet the same moment of every portion.
fn off_beat(turn: u32) -> Duration {
    const GOLDEN_RATIO: f64 = 0.618_034;
    Duration::from_millis(10).mul_f64((f64::from(turn) * GOLDEN_RATIO).fract())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the flood has no program {name}"))?;
    Ok(program.try_into()?)
}

/// `struct xdp_md` of a frame that came in by this interface.
fn xdp_context(length: usize, interface: u32) -> Vec<u8> {
    [0, length as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// Frames that the cable has lost, by the interface's own count (`tx_dropped`: the peer's queue was full).
fn lost(namespace: &Namespace, interface: &str) -> Result<u64> {
    let output =
        namespace.command("ip").args(["-s", "-j", "link", "show", interface]).output().context("cannot run ip")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).context("ip's answer is not JSON")?;
    links[0]["stats64"]["tx"]["dropped"].as_u64().with_context(|| format!("ip does not tell what {interface} lost"))
}

/// The client's ends of cables.
const ENDS: [&str; 2] = [CLIENT_INTERFACE, SECOND_CLIENT_INTERFACE];

fn refuse_unless_lab(namespace: &Namespace, interface: &str) -> Result<()> {
    ensure!(ENDS.contains(&interface), "a flood runs from the lab's {CLIENT_INTERFACE} only, not from {interface}");
    let own = std::fs::metadata("/proc/self/ns/net").context("cannot read this process's namespace")?.ino();
    ensure!(namespace.inode()? != own, "a flood runs in a namespace of the lab's only, not in this process's own");
    let links = namespace.command("ip").args(["-o", "link", "show", "up"]).output().context("cannot run ip")?;
    ensure!(links.status.success(), "cannot list the namespace's interfaces");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    let names = links.lines().filter_map(|line| line.split([' ', '@', ':']).filter(|part| !part.is_empty()).nth(1));
    for name in names {
        ensure!(
            name == "lo" || ENDS.contains(&name),
            "a flood runs in a namespace without an uplink only: {name} is up"
        );
    }
    Ok(())
}
