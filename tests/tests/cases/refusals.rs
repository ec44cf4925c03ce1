//! Invalid input leads to one clear sentence and the documented exit code, and leaves nothing attached.

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Finished, Lab, Setup, build::binary, daemon::tcpguard, eventually, finish, http, network::SERVER_INTERFACE,
    reply_path::ReplyPath,
};

fn message(output: &Finished) -> String {
    String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned()
}

/// Checks that the daemon exits with `code` and one line that contains `words`, and leaves nothing attached.
fn refuses(lab: &Lab, setup: &Setup, code: i32, words: &[&str]) -> Result<()> {
    let output = setup.run_to_end()?;
    let message = message(&output);
    ensure!(output.status.code() == Some(code), "{output}");
    for word in words {
        ensure!(message.contains(word), "\"{word}\" is missing: {message}");
    }
    ensure!(message.starts_with("tcpguard: "), "{message}");
    let link = lab.server.command("ip").args(["-d", "link", "show", SERVER_INTERFACE]).output()?;
    ensure!(!String::from_utf8_lossy(&link.stdout).contains("prog/xdp"), "something is attached");
    ensure!(!setup.socket().exists(), "the socket is left behind");
    Ok(())
}

#[test]
fn bad_configuration_exits_with_2_and_names_the_place() -> Result<()> {
    let lab = Lab::new()?;
    let setup = |text: &str| Setup::new(&lab).map(|setup| setup.whole_config(text));
    for (text, words) in [
        (
            "interfaces = [\"lab-server\"]\n[source]\nmax_halfopen = 1\n",
            ["tcpguard.toml:3:1:", "unknown field `max_halfopen`"],
        ),
        ("[thresholds]\nmax_half_open = \"many\"\n", ["tcpguard.toml:2:17:", "invalid type"]),
        ("[thresholds\n", ["tcpguard.toml:1:", ""]),
        ("syn_attack_protect = 7\n", ["tcpguard.toml:1:22:", "from 0 to 2"]),
        ("[listen]\nhttp = \"localhost\"\n", ["tcpguard.toml:2:8:", "socket address"]),
    ] {
        refuses(&lab, &setup(text)?, 2, &words)?;
    }
    Ok(())
}

#[test]
fn bad_usage_exits_with_2() -> Result<()> {
    for arguments in [&["frobnicate"][..], &["status", "--colour"], &["sources", "--sort", "size"], &[]] {
        let output = finish(std::process::Command::new(binary()?).args(arguments))?;
        ensure!(output.status.code() == Some(2), "{output}");
        ensure!(!output.stderr.is_empty(), "{arguments:?} prints no error");
    }
    let missing = finish(std::process::Command::new(binary()?).args(["--config", "/nonexistent.toml", "check"]))?;
    ensure!(missing.status.code() == Some(2), "{missing}");
    ensure!(message(&missing).contains("cannot read the configuration /nonexistent.toml"), "{}", message(&missing));
    Ok(())
}

#[test]
fn without_privilege_it_says_what_is_needed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("tcpguard");
    fs::copy(binary()?, &copy)?;
    let output = finish(std::process::Command::new(copy).arg("run").uid(65_534).gid(65_534)).context("as nobody")?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let message = message(&output);
    ensure!(message.contains("needs root") && message.contains("sudo"), "{message}");
    Ok(())
}

#[test]
fn a_missing_interface_is_named() -> Result<()> {
    let lab = Lab::new()?;
    // The first interface exists: the program must not stay attached to it.
    let setup = Setup::new(&lab)?.config("interfaces = [\"lab-server\", \"eth7\"]");
    refuses(&lab, &setup, 1, &["there is no interface eth7", "ip link"])
}

#[test]
fn no_default_route_is_said() -> Result<()> {
    let lab = Lab::new()?;
    refuses(&lab, &Setup::new(&lab)?.config(""), 1, &["no default route", "interfaces = "])
}

#[test]
fn whoever_has_the_http_port_does_not_keep_the_host_unguarded() -> Result<()> {
    let lab = Lab::new()?;
    let holder =
        lab.server.within(|| TcpListener::bind("127.0.0.1:9477").context("cannot listen in a new namespace"))?;
    let daemon = Setup::new(&lab)?.start()?;
    let told = || Ok(String::from_utf8(daemon.tcpguard(&["events"])?.stdout)?);
    let told = eventually("it is reported", told, |told| told.contains("http://127.0.0.1:9477"))?;
    ensure!(told.contains("another process uses") && told.contains("listen.http"), "{told}");
    drop(holder);
    let asked = || lab.server.within(|| http::get(TcpStream::connect("127.0.0.1:9477")?, "/readyz"));
    let answers = |answer: &Option<(u16, String)>| answer.as_ref().is_some_and(|(status, _)| *status == 200);
    eventually("it answers when the port is free", || Ok(asked().ok()), answers).map(drop)
}

#[test]
fn another_xdp_program_is_named_with_its_id() -> Result<()> {
    let lab = Lab::new()?;
    let _other = lab.server.within(|| ReplyPath::attach(SERVER_INTERFACE))?;
    let setup = Setup::new(&lab)?;
    let output = setup.run_to_end()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let message = message(&output);
    ensure!(message.contains("already has the XDP program reply_path (id "), "{message}");
    ensure!(message.contains("ip link set dev lab-server xdp off"), "{message}");
    Ok(())
}

#[test]
fn a_socket_that_cannot_be_made_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let file = tempfile::NamedTempFile::new()?;
    let beneath_a_file = file.path().join("tcpguard.sock");
    let setup = |socket: &std::path::Path| {
        let config = format!("interfaces = [\"lab-server\"]\n[listen]\nsocket = \"{}\"\n", socket.display());
        Setup::new(&lab).map(|setup| setup.whole_config(&config))
    };
    refuses(&lab, &setup(&beneath_a_file)?, 1, &["cannot make the socket", "listen.socket"])?;
    // A file that is not a socket is not removed.
    refuses(&lab, &setup(file.path())?, 1, &["it exists and is not a socket"])?;
    ensure!(file.path().exists(), "the file was removed");
    Ok(())
}

#[test]
fn a_second_daemon_says_who_is_there() -> Result<()> {
    let lab = Lab::new()?;
    let first = Setup::new(&lab)?.start()?;
    let config = format!(
        "interfaces = [\"lab-server\"]\n[listen]\nhttp = \"127.0.0.1:9478\"\nsocket = \"{}\"\n",
        first.socket().display()
    );
    let output = Setup::new(&lab)?.whole_config(&config).run_to_end()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let process = format!("another tcpguard (process {}) guards this network namespace already", first.id());
    ensure!(message(&output).contains(&process), "{process}: {}", message(&output));
    ensure!(first.get("/readyz")?.0 == 200, "the first daemon is not ready any more");
    Ok(())
}

#[test]
fn commands_without_a_daemon_say_how_to_start_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for command in ["status", "sources"] {
        let output = tcpguard(&[command], &folder.path().join("none.sock"))?;
        ensure!(output.status.code() == Some(1), "{}", output.status);
        ensure!(message(&output).contains("`tcpguard run` starts it"), "{}", message(&output));
    }
    Ok(())
}

#[test]
fn bad_requests_get_4xx_and_the_daemon_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let many_headers = format!("GET /stats HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Header: value\r\n".repeat(200));
    let long_header = format!("GET /stats HTTP/1.1\r\nHost: localhost\r\nX-Header: {}\r\n\r\n", "v".repeat(100_000));
    for (what, request, statuses) in [
        ("rubbish", "\x01\x02 rubbish\r\n\r\n", &[400][..]),
        ("no version", "GET /stats\r\n\r\n", &[400]),
        ("a path that is too long", &long_path, &[414, 431]),
        ("a header that is too long", &long_header, &[431]),
        ("too many headers", &many_headers, &[431]),
        ("an unknown path", "GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[404]),
        (
            "a method that writes",
            "POST /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            &[405],
        ),
        ("an unknown order", "GET /sources?sort=size HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[400]),
        (
            "a limit that is no number",
            "GET /sources?limit=all HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[400],
        ),
        (
            "a limit without limit",
            "GET /sources?limit=10000000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[400],
        ),
        (
            "an unknown parameter",
            "GET /half-open?host=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[400],
        ),
        (
            "a port beyond all",
            "GET /half-open?port=70000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[400],
        ),
    ] {
        let over_tcp = lab.server.within(|| {
            let stream = TcpStream::connect("127.0.0.1:9477").context("the daemon does not listen")?;
            http::exchange(stream, request.as_bytes())
        });
        let over_socket = http::exchange(daemon.connect()?, request.as_bytes());
        for answer in [over_tcp, over_socket] {
            let (status, body) = answer.with_context(|| what.to_owned())?;
            ensure!(statuses.contains(&status), "{what}: {status} {body}");
        }
        ensure!(daemon.get("/readyz")?.0 == 200, "{what}: the daemon is not ready any more");
    }
    Ok(())
}

#[test]
fn idle_connections_do_not_keep_the_administrator_out() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    // More connections than the daemon accepts, each with an incomplete request.
    let idle = lab.server.within(|| {
        let mut idle = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect("127.0.0.1:9477").context("the daemon does not listen")?;
            // Connections beyond the limit are closed, possibly before this is written.
            stream.write_all(b"GET /stats HTTP/1.1\r\n").ok();
            idle.push(stream);
        }
        Ok(idle)
    })?;
    ensure!(daemon.get("/stats")?.0 == 200, "the Unix socket does not respond");
    drop(idle);
    eventually(
        "the TCP port responds again",
        || {
            lab.server.within(|| {
                let stream = TcpStream::connect("127.0.0.1:9477").context("the daemon does not listen")?;
                Ok(http::get(stream, "/healthz").is_ok_and(|(status, _)| status == 200))
            })
        },
        |answers| *answers,
    )?;
    Ok(())
}

#[test]
fn an_interface_without_ethernet_headers_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.server.ip("tuntap add dev tun7 mode tun")?;
    lab.server.ip("link set tun7 up")?;
    refuses(&lab, &Setup::new(&lab)?.config("interfaces = [\"tun7\"]"), 1, &["tun7 is not an Ethernet interface"])
}

#[test]
fn bad_arguments_of_run_exit_with_2() -> Result<()> {
    let lab = Lab::new()?;
    for (arguments, words) in [
        (&["--interface", "lab-server", "--interface", "lab-server"][..], "named twice"),
        (&["--interface", "no/name"], "cannot be the name of an interface"),
        (&["--socket", "relative.sock"], "must start with /"),
    ] {
        let output = finish(Setup::new(&lab)?.command()?.args(arguments))?;
        ensure!(output.status.code() == Some(2), "{output}");
        ensure!(message(&output).contains(words), "{}", message(&output));
    }
    Ok(())
}
