//! rtnetlink(7) requests that aya does not offer: replacing an XDP program, and listing the filters of and removing a
//! clsact qdisc.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp},
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::AttachMode;
use crate::netlink;

// include/uapi/linux/if_link.h
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

/// See [`netlink::open`].
const PATIENCE_SECONDS: i64 = 2;

/// Atomically replaces the XDP program `expected` of an interface with `program`, which stays attached independently of
/// this process.
///
/// # Errors
/// Returns `EEXIST` if another program is attached, and `EBUSY` if the attached program is held by a `bpf_link`.
pub(super) fn replace_xdp(
    index: u32,
    program: BorrowedFd<'_>,
    expected: BorrowedFd<'_>,
    mode: AttachMode,
) -> io::Result<()> {
    let mode = if mode == AttachMode::Generic { XDP_FLAGS_SKB_MODE } else { XDP_FLAGS_DRV_MODE };
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program.as_raw_fd()),
        LinkXdp::Flags(mode | XDP_FLAGS_REPLACE),
        LinkXdp::ExpectedFd(expected.as_raw_fd() as u32),
    ]));
    request(RouteNetlinkMessage::SetLink(message))
}

/// Removes the clsact qdisc of an interface, with all its filters.
///
/// # Errors
/// Returns an error if the interface has no clsact qdisc.
pub(super) fn remove_clsact(index: u32) -> io::Result<()> {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    request(RouteNetlinkMessage::DelQueueDiscipline(message))
}

/// Returns whether the clsact qdisc of an interface has any filter, ingress or egress.
///
/// # Errors
/// Returns an error if the kernel does not answer.
pub(super) fn has_filters(index: u32) -> io::Result<bool> {
    for parent in [
        TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS },
        TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS },
    ] {
        let mut message = TcMessage::with_index(index as i32);
        message.header.parent = parent;
        let socket = ask(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_REQUEST | NLM_F_DUMP)?;
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
        if let NetlinkPayload::InnerMessage(_) = answer.payload {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends a request and waits for the kernel's acknowledgement.
fn request(message: RouteNetlinkMessage) -> io::Result<()> {
    let socket = ask(message, NLM_F_REQUEST | NLM_F_ACK)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

/// Sends a request, and returns the socket to read the answer from.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let socket = netlink::open(NETLINK_ROUTE, PATIENCE_SECONDS)?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}
