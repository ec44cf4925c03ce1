//! Listening on TCP and on the Unix socket, and serving with limits on the number of connections and on the time and
//! size of a request's head.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time::MissedTickBehavior,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::Access;
use crate::{
    config::Listen,
    cost::ON_REQUESTS,
    events::{EventKind, EventLog, Note},
    service_manager::{self, HOW_TO_OPEN},
};

/// The maximum number of connections to each listener: more than streams may take up, whose number has a limit of its own.
/// The unit permits as many descriptors as both listeners need (LimitNOFILE).
pub(super) const MAX_CONNECTIONS: usize = 320;
/// Descriptors that the daemon needs for everything else, generously.
const OTHER_DESCRIPTORS: u64 = 256;
/// The minimum number of connections to each listener, however few descriptors there may be.
const MIN_CONNECTIONS: usize = 4;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16 * 1024;
/// A connection whose client reads nothing of a response for this long is closed; otherwise a few such clients could
/// keep all others out.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const SOCKET_MODE: u32 = 0o660;
/// How long the daemon waits before it tries again to listen on an HTTP address that is in use.
const RETRY: Duration = Duration::from_secs(1);

/// Why the daemon cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The TCP address cannot be bound.
    #[error("cannot listen on http://{address}: {source}; set `listen.http` to another address or port")]
    Http {
        /// The address.
        address: SocketAddr,
        /// The error of the system call.
        source: io::Error,
    },
    /// Another daemon listens on the socket.
    #[error("another tcpguard is running: it answers on {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// The Unix socket cannot be created.
    #[error("cannot make the socket {}: {source}; set `listen.socket` to a path that can be written", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The daemon's listening sockets. Dropping this removes the Unix socket's file.
pub struct Listeners {
    address: SocketAddr,
    /// `None` while another process uses the address.
    http: Option<TcpListener>,
    unix: UnixListener,
    _socket_file: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            warn!("the socket {} could not be removed: {error}", self.0.display());
        }
    }
}

impl Listeners {
    /// Starts to listen. A socket file left behind by a killed daemon is replaced.
    ///
    /// # Errors
    /// Returns an error if an address or path is in use or cannot be bound.
    pub async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let address = listen.http;
        let http = match TcpListener::bind(address).await {
            Ok(http) => Some(http),
            // Whoever has the port must not keep the host from being protected.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(source) => return Err(ListenError::Http { address, source }),
        };
        let unix = bind_unix(&listen.socket)?;
        info!("listening on {}", listen.socket.display());
        Ok(Self { address, http, unix, _socket_file: SocketFile(listen.socket.clone()) })
    }

    /// Tells whether the HTTP address can be used.
    fn report(&self, events: &EventLog) {
        let address = self.address;
        if self.http.is_some() {
            info!("listening on http://{address}");
            if !address.ip().is_loopback() && service_manager::is_network_closed() {
                let message = format!("http://{address} can be reached from this host only: {HOW_TO_OPEN}");
                events.record(Note::new(EventKind::HttpUnavailable, message));
            }
            return;
        }
        let message = format!(
            "cannot listen on http://{address}, which another process uses: there is no dashboard and there are no \
             metrics until it is free; the commands work, and listen.http sets another address"
        );
        events.record(Note::new(EventKind::HttpUnavailable, message));
    }

    /// Serves until `shutdown`, then until the pending requests are answered, for at most one second.
    pub async fn serve(mut self, router: Router, events: EventLog, shutdown: CancellationToken) {
        self.report(&events);
        let server = Server { shutdown: shutdown.clone(), connections: TaskTracker::new() };
        let (read_only, full) =
            (router.clone().layer(Extension(Access::Read)), router.layer(Extension(Access::Change)));
        // Idle connections that use up one limit do not keep the administrator out of the other listener.
        let most = max_connections();
        let http_permits = Arc::new(Semaphore::new(most));
        let unix_permits = Arc::new(Semaphore::new(most));
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = retry.tick(), if self.http.is_none() => {
                    self.http = TcpListener::bind(self.address).await.ok();
                    if self.http.is_some() {
                        self.report(&events);
                    }
                }
                accepted = accept(self.http.as_ref()) => server.take(accepted, &read_only, &http_permits).await,
                accepted = self.unix.accept() => server.take(accepted.map(|(stream, _)| stream), &full, &unix_permits).await,
            }
        }
        server.connections.close();
        if tokio::time::timeout(Duration::from_secs(1), server.connections.wait()).await.is_err() {
            debug!("some requests were cut off");
        }
    }
}

/// Returns the maximum number of connections to each listener that leaves the daemon the descriptors it needs: without them
/// it could not look at the kernel.
fn max_connections() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return MIN_CONNECTIONS };
    let wanted = 2 * MAX_CONNECTIONS as u64 + OTHER_DESCRIPTORS;
    let raised = wanted.min(hard).max(soft);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        // The unit does not permit it, and sets a limit that suffices.
        Err(_) => soft,
    };
    let left = limit.saturating_sub(OTHER_DESCRIPTORS) / 2;
    let most = usize::try_from(left).unwrap_or(usize::MAX).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
    if most < MAX_CONNECTIONS {
        warn!("only {limit} files may be open: at most {most} clients are served at a time; see `ulimit -n`");
    }
    most
}

/// Accepts a connection; waits for ever if there is no listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::AlreadyRunning(path.to_owned()));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    warn_of_open_folder(path);
    match fs::symlink_metadata(path) {
        Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a socket"))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

/// Warns if other users may write to the socket's directory: they could replace the socket with one of their own.
fn warn_of_open_folder(socket: &Path) {
    const STICKY: u32 = 0o1000;
    let Some(folder) = socket.parent() else { return };
    let mode = fs::metadata(folder).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        warn!(
            "others may write to {} and could replace tcpguard's socket: `chmod go-w {}`",
            folder.display(),
            folder.display()
        );
    }
}

struct Server {
    shutdown: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves one more connection, or closes it if there are too many.
    async fn take<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        accepted: io::Result<S>,
        router: &Router,
        permits: &Arc<Semaphore>,
    ) {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!("a connection could not be accepted: {error}");
                // Most likely out of file descriptors: retrying immediately would fail again.
                return tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            return debug!("too many connections: closed the newest");
        };
        let (router, shutdown) = (router.clone(), self.shutdown.clone());
        self.connections.spawn(async move {
            ON_REQUESTS.by(serve_connection(stream, router, shutdown)).await;
            drop(permit);
        });
    }
}

async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    shutdown: CancellationToken,
) {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_TIMEOUT));
    // `TimeoutWriter` contains a pinned timer.
    let stream = Box::pin(stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!("a connection failed: {error}");
    }
}
