//! The cost of floods without SYNs: a host with tcpguard, compared with an unguarded one.

use anyhow::Result;
use lab::{
    Flood, FloodSpec, Lab, Setup, Sources,
    frame::{ACK, FIN, RST, SYN},
    network::SERVER_INTERFACE,
    oracle,
    server::Nginx,
};
use std::time::Duration;

use super::Effort;

const RATE: u32 = 200_000;
const LIMIT: f64 = 0.5;
/// A port without a listener, as those are that the host's own connections begin at.
const CLOSED: u16 = 40_000;
const KINDS: [(&str, u8, u16); 5] = [
    ("ACK, to a listener", ACK, 80),
    ("ACK, elsewhere", ACK, CLOSED),
    ("RST", RST, CLOSED),
    ("FIN", FIN | ACK, 80),
    ("SYN-ACK", SYN | ACK, CLOSED),
];

pub fn compare(effort: &Effort) -> Result<()> {
    println!("\nA flood of {RATE} segments per second that belong to no connection");
    println!("{:<36} {:>20} {:>20} {:>8}", "softirq s/M segments", "without tcpguard", "with tcpguard", "ratio");
    for (name, flags, port) in KINDS {
        let (without, with) = (measure(effort, flags, port, false)?, measure(effort, flags, port, true)?);
        let ratio = with / without;
        let remark = if ratio > LIMIT { "over the limit" } else { "" };
        println!("{name:<36} {without:>20.3} {with:>20.3} {ratio:>8.2}  limit {LIMIT:.2}  {remark}");
    }
    Ok(())
}

/// Returns the seconds that all CPUs spent in softirq, per million segments.
fn measure(effort: &Effort, flags: u8, port: u16, is_guarded: bool) -> Result<f64> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    lab.receive_without_daemon()?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]");
    let _daemon = if is_guarded { Some(Setup::new(&lab)?.config(&config).start()?) } else { None };
    let spec = FloodSpec { flags, tcp_options: Vec::new(), ..FloodSpec::syn(Sources::RANDOM_IPV4, port) };
    let mut flood = Flood::new(&lab, &spec)?;
    // The first half second, in which the flood is detected, is not measured.
    flood.send_at(RATE, Duration::from_millis(500))?;
    let before = oracle::softirq_seconds()?;
    let sent = flood.send_at(RATE, effort.flood)?;
    Ok((oracle::softirq_seconds()? - before) / (sent as f64 / 1e6))
}
