//! Explanations of the datapath's verdict on a packet. The packet is run through a twin of the loaded programs
//! ([`crate::datapath::Twin`]), which leaves the state and the counters of the datapath unchanged.

pub mod capture;
pub mod configuration;
mod reason;
mod stage;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use tcpguard_common::{
    abi::counters::{Counter, DropReason},
    address::Address,
    packet::{Flags, Segment, Unread, parse},
    wire::PacketBytes,
};
use zerocopy::{FromBytes, Immutable};

use crate::{
    datapath::{DatapathError, LiveState, Twin, maps::Totals},
    lists::Entry,
    time::WallClock,
};
pub use reason::Context;
pub use stage::decided_by;
pub use tcpguard_common::abi::counters::Stage;

/// Maximum number of bytes of a frame that are examined; no header is longer.
pub const MAX_FRAME: usize = 512;
/// Minimum length of a frame: the kernel does not run XDP programs on shorter ones.
pub const MIN_FRAME: usize = 14;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes to the kernel.
    Pass,
    /// The packet is dropped.
    Drop,
    /// The packet is turned into a reply and sent back.
    Answer,
    /// The program failed, and the kernel drops the packet.
    Abort,
}

impl Verdict {
    /// Converts the kernel's `xdp_action`.
    pub const fn of(action: u32) -> Self {
        match action {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Answer,
            _ => Self::Abort,
        }
    }

    /// Returns the name in the HTTP API and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
            Self::Abort => "abort",
        }
    }
}

/// The explanation of the verdict on one packet.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Short description of the packet.
    pub packet: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The stage that decided on the verdict.
    pub stage: Stage,
    /// Counters that the packet increments.
    pub counted_as: Vec<Counter>,
    /// The reason why the packet would be dropped if the lease allowed drops.
    pub would_drop: Option<DropReason>,
    /// One sentence on the reason and the entry it is based on.
    pub reason: String,
}

/// Explains packets one after the other. Connections opened by a packet are known for the following ones; the time
/// between packets, and handshakes completed in between, are not simulated.
pub struct Explainer<'a> {
    twin: Twin,
    live: &'a LiveState,
    listed: &'a dyn Fn(IpAddr) -> Vec<Entry>,
}

impl<'a> Explainer<'a> {
    /// Creates an explainer with a copy of the current state of `live`. `listed` returns the list entries that cover an
    /// address.
    ///
    /// # Errors
    /// Returns an error if the twin cannot be created.
    pub fn new(live: &'a LiveState, listed: &'a dyn Fn(IpAddr) -> Vec<Entry>) -> Result<Self, DatapathError> {
        Ok(Self { twin: live.twin()?, live, listed })
    }

    /// Explains one frame.
    ///
    /// # Errors
    /// Returns an error if the kernel does not run the program on the frame, or the state cannot be copied.
    pub fn explain(&mut self, frame: &[u8]) -> Result<Explanation, DatapathError> {
        let frame = &frame[..frame.len().min(MAX_FRAME)];
        let segment = parse(&Bytes(frame));
        if let Ok(segment) = &segment {
            // For each frame, because no handshake completes in the twin: the live state takes precedence.
            self.twin.learn(self.live, segment.source)?;
        }
        let entry = segment.as_ref().ok().map(|segment| self.twin.entry(segment.source)).transpose()?.flatten();
        let run = self.twin.run(frame)?;
        let counted_as = counted(&run.before, &run.after);
        let (stage, verdict) = (decided_by(&counted_as), Verdict::of(run.verdict));
        let would_drop = DropReason::ALL.iter().copied().find(|reason| counted_as.contains(&reason.would_counter()));
        let listed = match &segment {
            Ok(segment) => (self.listed)(segment.source.into()),
            Err(_) => Vec::new(),
        };
        let clock = WallClock::new(self.twin.jiffies()?, self.twin.ticks_per_second());
        let context = Context { segment: segment.as_ref().ok(), entry: entry.as_ref(), listed: &listed, clock: &clock };
        Ok(Explanation {
            packet: describe(frame, segment.as_ref()),
            reason: context.reason(&counted_as, would_drop),
            verdict,
            stage,
            counted_as,
            would_drop,
        })
    }
}

/// Returns the counters that increased, except the count of all packets.
fn counted(before: &Totals, after: &Totals) -> Vec<Counter> {
    let changed = Counter::ALL.iter().copied().filter(|counter| after.get(*counter) > before.get(*counter));
    changed.filter(|counter| *counter != Counter::Packets).collect()
}

/// A frame in memory. The wrapper exists because the parser requires a sized type, which a slice is not.
pub struct Bytes<'a>(pub &'a [u8]);

impl PacketBytes for Bytes<'_> {
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T> {
        self.0.read(offset)
    }
}

/// Describes a packet, as in `198.51.100.7:4000 > 198.18.0.1:443 SYN`.
fn describe(frame: &[u8], segment: Result<&Segment, &Unread>) -> String {
    match segment {
        Ok(segment) => {
            let end = |address: Address, port| SocketAddr::new(address.into(), port);
            let (from, to) =
                (end(segment.source, segment.source_port), end(segment.destination, segment.destination_port));
            let data = if segment.payload_length == 0 {
                String::new()
            } else {
                format!(" with {} bytes", segment.payload_length)
            };
            format!("{from} > {to} {}{data}", FlagNames(segment.flags))
        }
        Err(_) => format!("a frame of {} bytes", frame.len()),
    }
}

struct FlagNames(Flags);

impl fmt::Display for FlagNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let names = NAMES.iter().enumerate().filter(|(bit, _)| self.0.0 >> bit & 1 == 1);
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        formatter.write_str(if names.is_empty() { "no flags" } else { "" })?;
        formatter.write_str(&names.join("-"))
    }
}

/// Formats a time to the second.
fn time(time: Timestamp) -> String {
    format!("{time:.0}")
}
