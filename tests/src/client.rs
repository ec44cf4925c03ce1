//! A client that opens connections, requests a page and measures the connect times.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    panic::resume_unwind,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::{namespace::Namespace, network::Lab};

/// Timeout of a connection, unless [`Client::patient`] sets another; a lost SYN takes up the first second of it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A connect time from which a connection is listed among [`Connections::troubles`].
const SLOW: Duration = Duration::from_millis(500);
/// The most connections listed there.
const MAX_TROUBLES: usize = 20;

/// A client that opens connections from one namespace.
#[derive(Clone, Debug)]
pub struct Client {
    namespace: Namespace,
    source: Option<IpAddr>,
    timeout: Duration,
}

/// The results of the connections of one run.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Number of connections attempted.
    pub tried: u32,
    /// Connect times of the connections that were served, in ascending order.
    pub connect_times: Vec<Duration>,
    /// The first connections that were slow or not served, each with its begin since the start of the run and, for those
    /// not served, the reason.
    pub troubles: Vec<String>,
}

impl Connections {
    /// Returns the number of connections served.
    pub fn served(&self) -> u32 {
        self.connect_times.len() as u32
    }

    /// Returns the share of connections served, from 0 to 1.
    pub fn share(&self) -> f64 {
        f64::from(self.served()) / f64::from(self.tried.max(1))
    }

    /// Adds the result of a connection that began `begin` after the start of the run.
    fn record(&mut self, begin: Duration, result: Result<Duration>) {
        let trouble = match &result {
            Ok(time) if *time < SLOW => None,
            Ok(time) => Some(format!("at {begin:.1?}: connected after {time:.1?}")),
            Err(error) => Some(format!("at {begin:.1?}: {error:#}")),
        };
        self.troubles.extend(trouble.filter(|_| self.troubles.len() < MAX_TROUBLES));
        self.connect_times.extend(result.ok());
    }

    /// Returns the connect time that the share `share` (0 to 1) of the served connections did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let index = (self.connect_times.len() as f64 * share) as usize;
        self.connect_times.get(index.min(self.connect_times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Client {
    /// Creates a client in the namespace of the lab's clients.
    pub fn new(lab: &Lab) -> Self {
        Self::in_namespace(&lab.clients)
    }

    /// Creates a client in `namespace`.
    pub fn in_namespace(namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), source: None, timeout: TIMEOUT }
    }

    /// Sets the source address, which must be one of the client's.
    #[must_use]
    pub fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Has it wait for so long, where packets are lost: it sends its SYN after 0, 1, 3, 7 and 15 s.
    #[must_use]
    pub const fn patient(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens one connection, requests a page, and returns the connect time.
    ///
    /// # Errors
    /// Returns an error if the server refuses the connection or does not respond in time.
    pub fn fetch(&self, server: SocketAddr) -> Result<Duration> {
        self.namespace.within(|| fetch(self.source, server, self.timeout))
    }

    /// Opens a connection and returns it.
    ///
    /// # Errors
    /// Returns an error if the server refuses the connection or does not respond in time.
    pub fn connect(&self, server: SocketAddr) -> Result<TcpStream> {
        self.namespace.within(|| connect_from(self.source, server, self.timeout))
    }

    /// Opens one connection from each address, so many at a time, and returns the results.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn each_once(&self, addresses: &[IpAddr], server: SocketAddr, threads: usize) -> Result<Connections> {
        let share = addresses.len().div_ceil(threads).max(1);
        let connect = |mine: &[IpAddr]| -> Vec<_> {
            mine.iter().map(|address| self.clone().from(*address).fetch(server)).collect()
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = addresses.chunks(share).map(|mine| scope.spawn(|| connect(mine))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let mut all = Connections { tried: results.len() as u32, ..Connections::default() };
        for result in results {
            match result {
                Ok(time) => all.connect_times.push(time),
                Err(error) => all.troubles.push(format!("{error:#}")),
            }
        }
        all.connect_times.sort_unstable();
        Ok(all)
    }

    /// Opens `rate` connections a second, one after the other, for `duration` and while `goes_on` returns true.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn run(
        &self,
        server: SocketAddr,
        rate: u32,
        duration: Duration,
        goes_on: impl Fn() -> bool + Sync,
    ) -> Result<Connections> {
        self.run_as(&[self.source], server, rate, duration, goes_on)
    }

    /// Like [`Client::run`], from `sources` in turn, each of which must be one of the client's addresses.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn run_from(
        &self,
        sources: &[IpAddr],
        server: SocketAddr,
        rate: u32,
        duration: Duration,
        goes_on: impl Fn() -> bool + Sync,
    ) -> Result<Connections> {
        let sources: Vec<Option<IpAddr>> = sources.iter().copied().map(Some).collect();
        self.run_as(&sources, server, rate, duration, goes_on)
    }

    fn run_as(
        &self,
        sources: &[Option<IpAddr>],
        server: SocketAddr,
        rate: u32,
        duration: Duration,
        goes_on: impl Fn() -> bool + Sync,
    ) -> Result<Connections> {
        self.namespace.within(|| {
            let mut connections = Connections::default();
            let start = Instant::now();
            let mut permits = sources.iter().cycle();
            while goes_on() && start.elapsed() < duration {
                let source = permits.next().copied().flatten();
                connections.tried += 1;
                let begin = start.elapsed();
                connections.record(begin, fetch(source, server, self.timeout));
                let due = Duration::from_secs(1) / rate.max(1) * connections.tried;
                sleep(due.saturating_sub(start.elapsed()));
            }
            connections.connect_times.sort_unstable();
            Ok(connections)
        })
    }
}

fn fetch(source: Option<IpAddr>, server: SocketAddr, timeout: Duration) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = connect_from(source, server, timeout)?;
    let connect_time = start.elapsed();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").context("cannot send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no response")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the server's response is not 200");
    Ok(connect_time)
}

/// Opens an IPv4 connection from `source`, whose address must be one of the current namespace's.
///
/// # Errors
/// Returns an error if the connection cannot be opened.
pub fn connect_from_port(source: SocketAddr, server: SocketAddr) -> Result<TcpStream> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context("cannot create a socket")?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(source)).context("cannot bind")?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(server)).context("cannot connect")?;
    Ok(TcpStream::from(socket))
}

fn connect_from(source: Option<IpAddr>, server: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd =
        socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("cannot create a socket")?;
    let timeout = nix::sys::time::TimeVal::new(timeout.as_secs() as i64, 0);
    setsockopt(&socket, sockopt::SendTimeout, &timeout).context("cannot set a timeout")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).context("cannot set a timeout")?;
    if let Some(source) = source {
        let address = SockaddrStorage::from(SocketAddr::new(source, 0));
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)
            .with_context(|| format!("cannot bind to {source}: it must be an address of the client"))?;
    }
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(server)).context("cannot connect")?;
    Ok(TcpStream::from(socket))
}
