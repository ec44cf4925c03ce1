//! Servers: nginx, and a plain listener that accepts nothing by itself.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    client::Client,
    namespace::Namespace,
    network::{Lab, SERVER_IPV4},
    wait::eventually,
};

/// nginx in the lab's server, until this is dropped.
pub struct Nginx {
    process: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx on these ports, IPv4 and IPv6.
    ///
    /// # Errors
    /// Where it is not installed, or does not answer.
    pub fn start(lab: &Lab, ports: &[u16]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for nginx")?;
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
            .context("cannot start nginx: Debian has it in the package nginx-light")?;
        let nginx = Self { process, _folder: folder };
        let port = ports.first().copied().unwrap_or(80);
        // From the server itself, so that no SYN of this is counted.
        let local = Client::in_namespace(&lab.server);
        eventually(
            "nginx answers",
            || Ok(local.fetch(SocketAddr::from((SERVER_IPV4, port))).is_ok()),
            |answers| *answers,
        )?;
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}

/// A listener in `namespace` whose handshakes the kernel completes; nobody accepts them.
///
/// # Errors
/// Where the address is taken.
pub fn listen(namespace: &Namespace, address: IpAddr, port: u16) -> Result<TcpListener> {
    namespace
        .within(|| TcpListener::bind((address, port)).with_context(|| format!("cannot listen on {address}:{port}")))
}
