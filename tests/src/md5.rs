//! Connections with MD5 signatures (RFC 2385), as routers use them for BGP.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect as connect_socket, socket};

/// `struct tcp_md5sig` (include/uapi/linux/tcp.h).
#[repr(C)]
struct Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; 80],
}

/// Has the segments of connections with `peer` signed and checked with `key`, of at most 80 bytes.
///
/// # Errors
/// Returns an error if the kernel has no MD5 signatures (CONFIG_TCP_MD5SIG).
pub fn set_key(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> Result<()> {
    ensure!(key.len() <= 80, "the key is too long");
    let IpAddr::V4(peer) = peer else { anyhow::bail!("only IPv4 is needed") };
    // SAFETY: zeros are valid for all fields.
    let mut signature: Signature = unsafe { mem::zeroed() };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(peer).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the storage is larger than any address, and aligned for each.
    unsafe { (&raw mut signature.address).cast::<libc::sockaddr_in>().write(address) };
    signature.key_length = key.len() as u16;
    signature.key[..key.len()].copy_from_slice(key);
    // SAFETY: the kernel reads as many bytes as the structure has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            (&raw const signature).cast(),
            size_of::<Signature>() as libc::socklen_t,
        )
    };
    ensure!(result == 0, "cannot set a key for MD5 signatures: {}", io::Error::last_os_error());
    Ok(())
}

/// Opens a signed connection.
///
/// # Errors
/// Returns an error if the server does not answer, or has another key.
pub fn connect(server: SocketAddr, key: &[u8]) -> Result<TcpStream> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context("cannot create a socket")?;
    set_key(&socket, server.ip(), key)?;
    let patience = nix::sys::time::TimeVal::new(3, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SendTimeout, &patience)?;
    connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(server)).context("cannot connect")?;
    Ok(TcpStream::from(socket))
}
