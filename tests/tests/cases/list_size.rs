//! Lists of realistic length. The test has the machine to itself, since it measures time.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{Client, Lab, Setup, network::SERVER_IPV4, server::Nginx};

/// The longest time until a file that was written is read: it is checked once a second, and read by the first check that is
/// 300 ms after it was written.
const READ_WITHIN: Duration = Duration::from_millis(1300);
/// The limit for reading it and for putting its networks in force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn two_hundred_thousand_networks_are_in_force_within_two_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let setup = Setup::new(&lab)?;
    let file = setup.file("deny.txt");
    fs::write(&file, "")?;
    let config = format!("interfaces = [\"lab-server\"]\n[lists]\ndeny_files = [\"{}\"]", file.display());
    let daemon = setup.config(&config).start()?;
    let mut text = String::new();
    for n in 0..199_999u32 {
        // Scattered networks of many lengths, some within others, and none of the lab's.
        let address = Ipv4Addr::from(0x2000_0000 | (n.wrapping_mul(2_654_435_761) >> 3));
        writeln!(text, "{address}/{}", 16 + n % 17)?;
    }
    text.push_str("198.18.0.2\n");
    let start = Instant::now();
    fs::write(&file, text)?;
    let client = Client::new(&lab);
    // The last line is in force when the client can no longer connect. It notices only when the attempt times out, so
    // the time before the attempt counts.
    let took = loop {
        let asked = start.elapsed();
        if client.fetch((SERVER_IPV4, 80).into()).is_err() {
            break asked;
        }
        ensure!(asked < Duration::from_secs(10), "the list is not in force after {asked:?}");
    };
    println!("200,000 networks were in force {took:?} after they were written");
    let limit = READ_WITHIN + IN_FORCE_WITHIN;
    ensure!(
        took < limit,
        "it took {took:?}; the limit is {READ_WITHIN:?} until the file is read, plus {IN_FORCE_WITHIN:?}"
    );
    let events = daemon.json("/events?limit=100")?.to_string();
    ensure!(events.contains("200000 networks are denied"), "{events}");
    Ok(())
}
