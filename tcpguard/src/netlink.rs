//! Sockets for questions to the kernel (netlink(7)).

use std::io;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

/// Opens a socket of this protocol to the kernel. It answers immediately; if it does not within `patience_seconds`, receiving
/// fails, so that the daemon does not hang.
///
/// # Errors
/// Returns an error if the kernel does not support the protocol.
pub fn open(protocol: isize, patience_seconds: i64) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(patience_seconds, 0))?;
    Ok(socket)
}
