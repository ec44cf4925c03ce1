//! On what entry it was decided, in a sentence.

use tcpguard_common::{
    counters::Counter,
    drops::DropReason,
    packet::{Segment, Unread},
    source::SourceEntry,
};

use super::{moment, stage};
use crate::{
    lists::{Entry, ListName},
    monitor::WallClock,
};

/// What there was to decide on.
pub struct Context<'a> {
    /// The segment, where one could be read.
    pub segment: Option<&'a Segment>,
    /// What was remembered of its source before it came.
    pub entry: Option<&'a SourceEntry>,
    /// The entries of lists that its source falls under.
    pub listed: &'a [Entry],
    /// When.
    pub clock: &'a WallClock,
}

impl Context<'_> {
    /// Why this became of a packet that was counted as these.
    pub fn reason(&self, counted: &[Counter], would_drop: Option<DropReason>) -> String {
        let decided = if let Some(reason) = stage::dropped(counted) {
            format!("dropped: {}", self.of_drop(reason))
        } else if let Some(reason) = stage::unread(counted) {
            format!("let through unread: {}", of_unread(reason))
        } else {
            self.of_passing(counted)
        };
        match would_drop {
            Some(reason) => {
                format!("{decided}; it would be dropped if anything were at this moment: {}", self.of_drop(reason))
            }
            None => decided,
        }
    }

    fn of_drop(&self, reason: DropReason) -> String {
        let port = self.segment.map_or(0, |segment| segment.destination_port);
        match reason {
            DropReason::BadFlags => "no TCP sends these flags together".to_owned(),
            DropReason::BadDataOffset => "its data offset is below the length of a TCP header".to_owned(),
            DropReason::PortZero => "no TCP has a port 0".to_owned(),
            DropReason::SynPayload => {
                format!("a SYN with data to port {port}, in an attack, where no fast open is enabled")
            }
            DropReason::Denied => {
                self.of_list(ListName::Deny).unwrap_or_else(|| "its network is on the deny list".to_owned())
            }
            DropReason::Blocked => match self.entry {
                Some(entry) => {
                    format!("its source is blocked until {}", moment(self.clock.time_of(entry.blocked_until)))
                }
                None => "its source is blocked".to_owned(),
            },
            DropReason::BlockedPrefix => "its network is blocked, and it has not proved itself".to_owned(),
            DropReason::RateLimit => format!("its source sent more than source.syn_per_second; {}", self.of_entry()),
            DropReason::FirstSyn => {
                format!(
                    "port {port} is challenged, and this is the first SYN of the connection: sent again, it is let in"
                )
            }
            DropReason::StrayAck | DropReason::StrayFin | DropReason::StrayRst => {
                format!("port {port} is challenged, and it belongs to no connection and brings no valid cookie back")
            }
            DropReason::SpentCookie => "a connection was made by this cookie already".to_owned(),
        }
    }

    fn of_passing(&self, counted: &[Counter]) -> String {
        let has = |counter| counted.contains(&counter);
        let port = self.segment.map_or(0, |segment| segment.destination_port);
        if has(Counter::CookiesReturned) {
            return "let in: it brings a valid cookie back".to_owned();
        }
        if has(Counter::ChallengeFailed) {
            return format!("let in: port {port} is challenged, but this SYN cannot be answered");
        }
        if has(Counter::SynChallenged) || has(Counter::SynChallengedAgain) {
            return format!(
                "answered with a cookie: port {port} is challenged, and its source has not proved itself; {}",
                self.of_entry()
            );
        }
        if has(Counter::SynForwarded) {
            return "let through: it is for another host, and not judged here".to_owned();
        }
        if has(Counter::SynClosed) {
            return format!(
                "let through: port {port} lost its listener a while ago, and is not judged until it has one again"
            );
        }
        if let Some(allowed) = self.of_list(ListName::Allow)
            && has(Counter::SynTracked)
        {
            return format!("let in: {allowed}");
        }
        if has(Counter::SynRepeated) {
            return format!("let in: a SYN that was sent again; {}", self.of_entry());
        }
        if has(Counter::SynTracked) || has(Counter::SynUntracked) {
            return format!("let in; {}", self.of_entry());
        }
        "let through: only SYNs are judged, and the port is not challenged or it belongs to a connection".to_owned()
    }

    fn of_list(&self, list: ListName) -> Option<String> {
        let entry = self.listed.iter().find(|entry| entry.list == list)?;
        Some(format!("{} is on the {} list, by {}", entry.network, list.name(), entry.origin))
    }

    fn of_entry(&self) -> String {
        match self.entry {
            None => "nothing was remembered of it".to_owned(),
            Some(entry) => {
                let proven = if entry.proven_until > self.clock.jiffies() {
                    format!("proven until {}", moment(self.clock.time_of(entry.proven_until)))
                } else {
                    "not proven".to_owned()
                };
                format!(
                    "its entry had {} SYNs, {} handshakes completed, {} dropped, {proven}",
                    entry.syn, entry.completed, entry.dropped
                )
            }
        }
    }
}

const fn of_unread(reason: Unread) -> &'static str {
    match reason {
        Unread::NotIp => "it is neither IPv4 nor IPv6 (or has more than two VLAN tags)",
        Unread::NotTcp => "it is not TCP",
        Unread::LaterFragment => "it is a later fragment, which has no TCP header",
        Unread::Truncated => "it ends within its headers",
        Unread::BadIpHeader => "its IP header is not sound",
        Unread::BadDataOffset => "its data offset is below the length of a TCP header",
        Unread::TooManyExtensions => "it has more IPv6 extension headers than are followed",
    }
}
