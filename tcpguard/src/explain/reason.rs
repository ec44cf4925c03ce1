//! Sentences that give the reason for a verdict and the entry it is based on.

use tcpguard_common::{
    abi::counters::{Counter, DropReason},
    packet::{Segment, Unread},
    tracking::source::SourceEntry,
};

use super::{stage, time};
use crate::{
    lists::{Entry, ListName},
    time::WallClock,
};

/// The state that a verdict is based on.
pub struct Context<'a> {
    /// The segment, if the frame could be parsed.
    pub segment: Option<&'a Segment>,
    /// The source's entry in the source table before the packet.
    pub entry: Option<&'a SourceEntry>,
    /// The list entries that cover the source.
    pub listed: &'a [Entry],
    /// Conversion of datapath time, as of the packet.
    pub clock: &'a WallClock,
}

impl Context<'_> {
    /// Returns the reason for the verdict on a packet that incremented these counters.
    pub fn reason(&self, counted: &[Counter], would_drop: Option<DropReason>) -> String {
        let decided = if let Some(reason) = stage::dropped(counted) {
            format!("dropped: {}", self.of_drop(reason))
        } else if let Some(reason) = stage::unread(counted) {
            format!("passes: {}", of_unread(reason))
        } else {
            self.of_passing(counted)
        };
        match would_drop {
            Some(reason) => {
                format!("{decided}; it would be dropped if drops were enabled now: {}", self.of_drop(reason))
            }
            None => decided,
        }
    }

    fn of_drop(&self, reason: DropReason) -> String {
        let port = self.segment.map_or(0, |segment| segment.destination_port);
        match reason {
            DropReason::SynPayload => {
                format!("a SYN with data to port {port} during an attack, and TCP fast open is not enabled")
            }
            DropReason::Denied => self.of_list(ListName::Deny).unwrap_or_else(|| reason.because().to_owned()),
            DropReason::Blocked => match self.entry {
                Some(entry) => format!("{} until {}", reason.because(), time(self.clock.time_of(entry.blocked_until))),
                None => reason.because().to_owned(),
            },
            DropReason::RateLimit => format!("{}; {}", reason.because(), self.of_entry()),
            _ => reason.because().to_owned(),
        }
    }

    fn of_passing(&self, counted: &[Counter]) -> String {
        let has = |counter| counted.contains(&counter);
        let port = self.segment.map_or(0, |segment| segment.destination_port);
        if has(Counter::CookiesReturned) {
            return "passes: it returns a valid cookie".to_owned();
        }
        if has(Counter::ChallengeFailed) {
            return format!("passes: port {port} is challenged, but this SYN cannot be answered");
        }
        if has(Counter::SynChallenged) || has(Counter::SynChallengedAgain) {
            return format!(
                "answered with a cookie: port {port} is challenged, and its source is not proven; {}",
                self.of_entry()
            );
        }
        if has(Counter::SynPrompted) {
            return format!(
                "answered with a SYN-ACK that a client resets: port {port} is challenged, its source is not proven, and it passes \
                 when it comes again after the reset; {}",
                self.of_entry()
            );
        }
        if has(Counter::SynForwarded) {
            return "passes: it is addressed to another host that is not protected, and not accounted to its source"
                .to_owned();
        }
        if has(Counter::SynClosed) {
            return format!("passes: port {port} has no listener and is not redirected; SYNs to it are not accounted");
        }
        if let Some(allowed) = self.of_list(ListName::Allow)
            && has(Counter::SynTracked)
        {
            return format!("passes: {allowed}");
        }
        if has(Counter::SynRepeated) {
            return format!("passes: a retransmitted SYN; {}", self.of_entry());
        }
        if has(Counter::SynTracked) || has(Counter::SynUntracked) {
            return format!("passes; {}", self.of_entry());
        }
        "passes: it is not a SYN, and its port is not challenged or it belongs to a connection".to_owned()
    }

    fn of_list(&self, list: ListName) -> Option<String> {
        let entry = self.listed.iter().find(|entry| entry.list == list)?;
        Some(format!("{} is on the {} list, by {}", entry.network, list.name(), entry.origin))
    }

    fn of_entry(&self) -> String {
        match self.entry {
            None => "nothing was remembered of the source".to_owned(),
            Some(entry) => {
                let proven = if entry.proven_until > self.clock.jiffies() {
                    format!("proven until {}", time(self.clock.time_of(entry.proven_until)))
                } else {
                    "not proven".to_owned()
                };
                format!(
                    "the source's entry had {} SYNs, {} completed handshakes, {} dropped, {proven}",
                    entry.syn, entry.completed, entry.dropped
                )
            }
        }
    }
}

const fn of_unread(reason: Unread) -> &'static str {
    match reason {
        Unread::NotIp => "it is neither IPv4 nor IPv6",
        Unread::NotTcp => "it is not TCP",
        Unread::LaterFragment => "it is a later fragment, which has no TCP header",
        Unread::Truncated => "it is truncated within its headers",
        Unread::BadIpHeader => "its IP header is invalid",
        Unread::BadDataOffset => "its data offset is smaller than a TCP header",
        Unread::TooManyTags => "it has more VLAN tags than are read",
        Unread::TooManyExtensions => "it has too many or too long IPv6 extension headers",
        Unread::TinyFragment => "it is a fragment that divides its TCP header",
        Unread::FragmentedSyn => "it is a SYN in fragments, or in a jumbogram",
    }
}
