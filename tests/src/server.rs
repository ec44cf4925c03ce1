//! Servers: nginx, a listener that accepts nothing by itself, and workers that share a port.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use tempfile::TempDir;

use crate::{
    client::Client,
    namespace::Namespace,
    network::{Lab, SERVER_IPV4},
    process::KilledOnDrop,
    wait::eventually,
};

/// nginx in the lab's server namespace, until this value is dropped.
pub struct Nginx {
    _process: KilledOnDrop,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx on `ports`, for IPv4 and IPv6.
    ///
    /// # Errors
    /// Returns an error if it is not installed or does not respond.
    pub fn start(lab: &Lab, ports: &[u16]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a directory for nginx")?;
        let listen: String = ports.iter().map(|port| format!("listen {port}; listen [::]:{port};\n")).collect();
        let path = folder.path().display();
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
             server {{ {listen} location / {{ return 200 \"hello\\n\"; }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).context("cannot write nginx's configuration")?;
        let process = lab
            .server
            .command("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start nginx (Debian package: nginx-light)")?;
        let nginx = Self { _process: KilledOnDrop(process), _folder: folder };
        let port = ports.first().copied().unwrap_or(80);
        // From the server namespace, so that these SYNs are not counted.
        let local = Client::in_namespace(&lab.server);
        eventually(
            "nginx responds",
            || Ok(local.fetch(SocketAddr::from((SERVER_IPV4, port))).is_ok()),
            |answers| *answers,
        )?;
        Ok(nginx)
    }
}

/// Opens a listener in `namespace`. The kernel completes its handshakes; accepting them is up to the caller.
///
/// # Errors
/// Returns an error if the address is in use.
pub fn listen(namespace: &Namespace, address: IpAddr, port: u16) -> Result<TcpListener> {
    namespace
        .within(|| TcpListener::bind((address, port)).with_context(|| format!("cannot listen on {address}:{port}")))
}

/// Servers that share a port (`SO_REUSEPORT`), one thread each, until this value is dropped.
pub struct Echo {
    listeners: Vec<std::os::fd::OwnedFd>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        for listener in &self.listeners {
            nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
        }
    }
}

/// Starts `workers` servers on one address, which respond to every request with a page.
///
/// # Errors
/// Returns an error if the address is in use.
pub fn echo(namespace: &Namespace, address: &str, workers: usize) -> Result<Echo> {
    let address: SocketAddr = address.parse().context("not a socket address")?;
    let mut listeners = Vec::new();
    for _ in 0..workers {
        let listener = namespace.within(|| shared_listener(address))?;
        listeners.push(listener.try_clone().context("cannot duplicate the listener")?);
        std::thread::spawn(move || {
            let listener = TcpListener::from(listener);
            while let Ok((stream, _)) = listener.accept() {
                // The client may have disconnected.
                answer(stream).ok();
            }
        });
    }
    Ok(Echo { listeners })
}

fn shared_listener(address: SocketAddr) -> Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let listener = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("cannot create a socket")?;
    setsockopt(&listener, sockopt::ReuseAddr, &true).context("cannot set SO_REUSEADDR")?;
    setsockopt(&listener, sockopt::ReusePort, &true).context("cannot set SO_REUSEPORT")?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address)).with_context(|| format!("cannot bind {address}"))?;
    nix::sys::socket::listen(&listener, Backlog::new(128).context("the backlog is out of range")?)
        .context("cannot listen")?;
    Ok(listener)
}

fn answer(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut request = [0; 512];
    let _read = stream.read(&mut request)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
}

/// A server that aborts every connection as soon as it is accepted, until this value is dropped: the client receives a
/// reset, and neither side keeps any state.
pub struct Aborting {
    listener: TcpListener,
}

impl Aborting {
    /// Listens on a port of the lab's server, with a backlog of up to `backlog` connections.
    ///
    /// # Errors
    /// Returns an error if the port is in use.
    pub fn start(lab: &Lab, port: u16, backlog: i32) -> Result<Self> {
        lab.server.sysctl("net.core.somaxconn", &backlog.to_string())?;
        let address = SocketAddr::from((SERVER_IPV4, port));
        let listener = lab.server.within(|| {
            let socket =
                socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("no socket")?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).context("cannot bind the port")?;
            // SAFETY: a call without pointers. nix permits no backlog above 4096.
            let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
            ensure!(result == 0, "cannot listen: {}", std::io::Error::last_os_error());
            Ok(TcpListener::from(socket))
        })?;
        let accepting = listener.try_clone().context("cannot duplicate the listener")?;
        std::thread::spawn(move || {
            let abort = libc::linger { l_onoff: 1, l_linger: 0 };
            while let Ok((stream, _)) = accepting.accept() {
                // The client may have disconnected.
                setsockopt(&stream, sockopt::Linger, &abort).ok();
            }
        });
        Ok(Self { listener })
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
    }
}
