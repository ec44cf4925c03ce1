//! What the datapath would make of a packet, and why: the packet is run through a twin of the loaded programs
//! ([`crate::datapath::Twin`]), so that asking changes nothing.

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
    address::Address,
    counters::Counter,
    drops::DropReason,
    packet::{Flags, PacketBytes, Segment, Unread, parse},
};
use zerocopy::{FromBytes, Immutable};

use crate::{
    datapath::{DatapathError, LiveState, Twin, maps::Totals},
    lists::Entry,
    monitor::WallClock,
};
pub use reason::Context;
pub use stage::Stage;

/// The longest part of a frame that is looked at: no header is longer.
pub const LONGEST_FRAME: usize = 512;
/// The kernel runs programs on no shorter one.
pub const SHORTEST_FRAME: usize = 14;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the kernel.
    Pass,
    /// It goes no further.
    Drop,
    /// It is turned into an answer, which is sent back.
    Answer,
    /// The program failed, which the kernel treats as a drop.
    Abort,
}

impl Verdict {
    /// Of the kernel's `xdp_action`.
    pub const fn of(action: u32) -> Self {
        match action {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Answer,
            _ => Self::Abort,
        }
    }

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
            Self::Abort => "abort",
        }
    }
}

/// What was made of one packet.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The packet, in short.
    pub packet: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Where that was decided.
    pub stage: Stage,
    /// What it is counted as.
    pub counted_as: Vec<Counter>,
    /// Why it would be dropped, if anything were.
    pub would_drop: Option<DropReason>,
    /// On what entry it was decided, and why, in a sentence.
    pub reason: String,
}

/// Explains packets, one after the other: the connections that one begins count for the next. The times between
/// them, and the handshakes that complete meanwhile, do not.
pub struct Explainer<'a> {
    twin: Twin,
    live: &'a LiveState,
    listed: &'a dyn Fn(IpAddr) -> Vec<Entry>,
}

impl<'a> Explainer<'a> {
    /// By the state that `live` has now; `listed` tells which entries of lists an address falls under.
    ///
    /// # Errors
    /// Where no twin can be made.
    pub fn new(live: &'a LiveState, listed: &'a dyn Fn(IpAddr) -> Vec<Entry>) -> Result<Self, DatapathError> {
        Ok(Self { twin: live.twin()?, live, listed })
    }

    /// Explains one frame.
    ///
    /// # Errors
    /// Where the kernel refuses to run it, or the state cannot be copied.
    pub fn explain(&mut self, frame: &[u8]) -> Result<Explanation, DatapathError> {
        let frame = &frame[..frame.len().min(LONGEST_FRAME)];
        let segment = parse(&Bytes(frame));
        if let Ok(segment) = &segment {
            // Each time, since in the twin no handshake completes: what the real one knows goes before.
            self.twin.learn(self.live, segment.source)?;
        }
        let entry = segment.as_ref().ok().map(|segment| self.twin.entry(segment.source)).transpose()?.flatten();
        let run = self.twin.run(frame)?;
        let counted_as = counted(&run.before, &run.after);
        let (stage, verdict) = (Stage::of(&counted_as), Verdict::of(run.verdict));
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

/// The counters that went up, but for the count of all packets.
fn counted(before: &Totals, after: &Totals) -> Vec<Counter> {
    let changed = Counter::ALL.iter().copied().filter(|counter| after.get(*counter) > before.get(*counter));
    changed.filter(|counter| *counter != Counter::Packets).collect()
}

/// A frame in memory. (A slice has no size of its own, which the parser asks for.)
pub struct Bytes<'a>(pub &'a [u8]);

impl PacketBytes for Bytes<'_> {
    fn read<T: FromBytes + Immutable + Copy>(&self, offset: usize) -> Option<T> {
        self.0.read(offset)
    }
}

/// A packet in short: `198.51.100.7:4000 > 198.18.0.1:443 SYN`.
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

/// Until when, as it is shown.
fn moment(time: Timestamp) -> String {
    format!("{time:.0}")
}
