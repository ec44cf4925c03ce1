//! `tcpguard explain`.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{
    Asking, Usage,
    client::{self, Presence},
    load_config, print, print_json, runtime,
};
use crate::{
    api::{MAX_FRAMES, model::Explanation},
    explain::{
        MAX_FRAME, MIN_FRAME,
        capture::{self, Capture, CaptureError, Segment},
        configuration,
    },
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// A capture file (pcap or pcapng; - for standard input), a packet in hexadecimal digits, or the two endpoints of a
    /// connection, as in `198.51.100.7:4000 198.18.0.1:443` or `tcp 198.51.100.7 4000 198.18.0.1 443`
    #[arg(required = true, num_args = 1..=5, value_name = "PACKET")]
    packet: Vec<String>,
    /// Segment to explain, if the packet is given by its endpoints
    #[arg(long, value_enum, default_value_t = Segment::Syn)]
    segment: Segment,
    /// Maximum number of packets of a capture to explain
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=MAX_FRAMES as i64))]
    limit: u32,
}

pub(super) fn explain(config: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let capture = arguments.capture()?;
    let too_short = capture.frames.iter().filter(|frame| frame.len() < MIN_FRAME).count();
    let frames: Vec<Vec<u8>> = capture.frames.into_iter().filter(|frame| frame.len() >= MIN_FRAME).collect();
    let socket = arguments.asking.socket(config)?;
    let presence = client::presence(&socket);
    if presence == Presence::Forbidden {
        bail!(
            "no permission to open {}: only root and the socket's group can explain packets (sudo?)",
            socket.display()
        );
    }
    let explained: Vec<Explanation> = if presence == Presence::Listens {
        let digits: Vec<String> =
            frames.iter().map(|frame| hex::encode(&frame[..frame.len().min(MAX_FRAME)])).collect();
        arguments.asking.change(config, Method::POST, "/explain", Some(&json!({ "frames": digits })))?
    } else {
        eprintln!(
            "tcpguard: no daemon listens at {}: explaining by the configuration alone (lists and limits, without an attack); challenges and the state of sources are not considered",
            socket.display()
        );
        // Loading the datapath registers its event queue with a runtime, even if no events are read.
        let runtime = runtime()?;
        let _entered = runtime.enter();
        configuration::explain(&load_config(config)?, &frames)?.into_iter().map(Into::into).collect()
    };
    if too_short > 0 {
        eprintln!("tcpguard: skipped {too_short} packets shorter than {MIN_FRAME} bytes");
    }
    if let Some(left_out) = &capture.left_out {
        eprintln!("tcpguard: {left_out}");
    }
    if arguments.asking.json { print_json(&explained) } else { print(&describe(&explained)) }
}

impl Arguments {
    fn capture(&self) -> Result<Capture> {
        let limit = self.limit as usize;
        let words: Vec<&str> = self.packet.iter().map(String::as_str).collect();
        let captured = match words[..] {
            ["-"] => capture::read(io::stdin().lock(), limit),
            [path] if Path::new(path).is_file() => {
                capture::read(File::open(path).with_context(|| format!("cannot open {path}"))?, limit)
            }
            [text] if text.contains(['/', '.']) => {
                return Err(Usage(format!("there is no file {text}")).into());
            }
            [digits] => capture::of_hex(digits),
            _ => {
                let (source, destination) = ends(&words).map_err(Usage)?;
                capture::between(source, destination, self.segment)
            }
        };
        captured.map_err(|error| match error {
            error @ (CaptureError::NotHex(_) | CaptureError::Length(_) | CaptureError::Families(..)) => {
                Usage(error.to_string()).into()
            }
            error => error.into(),
        })
    }
}

/// Parses the two endpoints of a connection: `ADDRESS:PORT` twice, or addresses and ports as separate words, optionally
/// with `tcp`.
fn ends(words: &[&str]) -> Result<(SocketAddr, SocketAddr), String> {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.eq_ignore_ascii_case("tcp")).collect();
    let together = |word: &str| {
        word.parse::<SocketAddr>().map_err(|_| {
            format!("\"{word}\" is not an address with a port, such as 198.51.100.7:4000 or [2001:db8::7]:4000")
        })
    };
    let apart = |address: &str, port: &str| {
        let address: IpAddr = address.parse().map_err(|_| format!("\"{address}\" is not an address"))?;
        let port = port.parse().map_err(|_| format!("\"{port}\" is not a port"))?;
        Ok::<_, String>(SocketAddr::new(address, port))
    };
    match words[..] {
        [source, destination] => Ok((together(source)?, together(destination)?)),
        [source, source_port, destination, port] => Ok((apart(source, source_port)?, apart(destination, port)?)),
        _ => Err("name the two endpoints, as in 198.51.100.7:4000 198.18.0.1:443".to_owned()),
    }
}

fn describe(explained: &[Explanation]) -> String {
    let one = |explanation: &Explanation| {
        format!(
            "{}\n    {} at {}: {}\n",
            explanation.packet, explanation.verdict, explanation.stage, explanation.reason
        )
    };
    explained.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_typed_in_two_ways() {
        let expected = ("198.51.100.7:4000".parse().expect("an end"), "198.18.0.1:443".parse().expect("an end"));
        for words in [
            &["198.51.100.7:4000", "198.18.0.1:443"][..],
            &["198.51.100.7", "4000", "198.18.0.1", "443"],
            &["tcp", "198.51.100.7", "4000", "198.18.0.1", "443"],
            &["198.51.100.7", "4000", "198.18.0.1", "443", "TCP"],
        ] {
            assert_eq!(ends(words), Ok(expected));
        }
        for words in [
            &["198.51.100.7", "198.18.0.1"][..],
            &["a", "b", "c"],
            &["x", "1", "198.18.0.1", "443"],
            &["::1", "66000", "::2", "1"],
        ] {
            assert!(ends(words).is_err(), "{words:?}");
        }
    }
}
