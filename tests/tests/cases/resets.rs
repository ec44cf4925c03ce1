//! Safe reset, packet by packet: what answers a SYN, which resets release its flow, and for how much.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    frame::{ACK, Frame, RST, fold, sum},
    loaded::{LoadedDatapath, challenge_terms},
};
use tcpguard::config::{Hook, Protect};
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        place,
        port::{PortChallenge, port_flag},
    },
    challenge::safe_reset::{RANGE, Secret},
    tracking::bucket::Rate,
};
use tokio::runtime::{Builder, Runtime};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const PORT: u16 = 443;
const SECRET: Secret = Secret { key: [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321], epoch: 100 };

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn lease(secret: Secret, before: Secret) -> Lease {
    Lease {
        valid_until: u64::MAX,
        flags: flag::DROP | flag::CHALLENGE | flag::RESETS | flag::LOCAL_KNOWN,
        generation: 1,
        rate: Rate::NONE,
        secret,
        secret_before: before,
        ..Lease::NONE
    }
}

/// The datapath, and the runtime that its ring buffer is registered with.
struct Guard {
    loaded: LoadedDatapath,
    _runtime: Runtime,
}

impl Deref for Guard {
    type Target = LoadedDatapath;

    fn deref(&self) -> &LoadedDatapath {
        &self.loaded
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut LoadedDatapath {
        &mut self.loaded
    }
}

/// Loads the datapath, with a port that is challenged by reset.
fn challenging(hook: Hook) -> Result<Guard> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let loaded = {
        let _entered = runtime.enter();
        LoadedDatapath::load_at(hook)?
    };
    let mut guard = Guard { loaded, _runtime: runtime };
    guard.maps.lease.grant(&lease(SECRET, SECRET))?;
    let local = ["198.18.0.1", "198.18.0.2", "2001:db8::1"].map(|text| address(text).into());
    guard.maps.local.set(&local.into_iter().collect(), &BTreeSet::new())?;
    let terms = PortChallenge { hop_limit: 63, ..challenge_terms(port_flag::RESET) };
    guard.maps.challenges.set_terms(&[(PORT.into(), Some(terms))].into())?;
    Ok(guard)
}

fn verdict(guard: &Guard, frame: &Frame) -> Result<u32> {
    Ok(guard.answer(&frame.build().bytes)?.0)
}

fn count(guard: &Guard, counter: Counter) -> Result<u64> {
    Ok(guard.maps.observed.counts.read()?.get(counter))
}

fn syn() -> Frame {
    Frame { sequence: 1_000_000_000, ..Frame::syn(address("198.18.1.1"), address("198.18.0.1"), PORT) }
}

fn syn_ipv6() -> Frame {
    Frame { sequence: 1_000_000_000, ..Frame::syn(address("2001:db8:1::1"), address("2001:db8::1"), PORT) }
}

/// Returns the number that the answer to `syn` acknowledges.
fn prompted(guard: &Guard, syn: &Frame) -> Result<u32> {
    let (verdict, out) = guard.answer(&syn.build().bytes)?;
    ensure!(verdict == XDP_TX, "verdict {verdict}");
    let at = if syn.source.is_ipv4() { 14 + 20 } else { 14 + 40 } + 4 * syn.tags.len();
    let bytes = out.get(at + 8..at + 12).context("a whole TCP header")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

fn reset(syn: &Frame, sequence: u32) -> Frame {
    Frame { sequence, ..syn.clone() }.flags(RST)
}

#[test]
fn the_answer_is_a_syn_ack_of_a_number_close_below() -> Result<()> {
    let guard = challenging(Hook::Xdp)?;
    for syn in [syn(), syn_ipv6()] {
        let (verdict, out) = guard.answer(&syn.build().bytes)?;
        ensure!(verdict == XDP_TX, "verdict {verdict}");
        let sent = syn.build().bytes;
        ensure!((&out[0..6], &out[6..12], &out[12..14]) == (&sent[6..12], &sent[0..6], &sent[12..14]), "{out:02x?}");
        let (ip, addresses) = if syn.source.is_ipv4() { (20, 26..34) } else { (40, 22..54) };
        let middle = addresses.start + addresses.len() / 2;
        let swapped = [&sent[middle..addresses.end], &sent[addresses.start..middle]].concat();
        ensure!(out[addresses.clone()] == swapped, "addresses {out:02x?}");
        let time_to_live = if syn.source.is_ipv4() { out[14 + 8] } else { out[14 + 7] };
        ensure!(time_to_live == if syn.source.is_ipv4() { 64 } else { 63 });
        let tcp = &out[14 + ip..14 + ip + 20];
        ensure!((&tcp[0..2], &tcp[2..4]) == (&PORT.to_be_bytes()[..], &syn.source_port.to_be_bytes()[..]));
        ensure!(tcp[12..14] == [0x50, 0x12], "20 bytes of header, SYN and ACK: {tcp:02x?}");
        let pseudo_header = sum(&out[addresses]) + 6 + 20;
        ensure!(fold(pseudo_header + sum(tcp)) == 0xffff, "checksum {tcp:02x?}");
        let number = u32::from_be_bytes(tcp[8..12].try_into()?);
        ensure!((1..=RANGE).contains(&(syn.sequence - number)), "{number}");
        ensure!(out.len() == if syn.source.is_ipv4() { 60 } else { 74 }, "{} bytes", out.len());
        ensure!(out[14 + ip + 20..].iter().all(|byte| *byte == 0), "the rest of the SYN is sent: {out:02x?}");
    }
    ensure!(count(&guard, Counter::SynPrompted)? == 2);
    ensure!(count(&guard, Counter::SynTracked)? + count(&guard, Counter::SynUntracked)? == 0);
    Ok(())
}

#[test]
fn a_reset_with_the_number_lets_one_syn_pass() -> Result<()> {
    for hook in [Hook::Xdp, Hook::Tc] {
        let guard = challenging(hook)?;
        for syn in [syn(), syn_ipv6()] {
            let number = prompted(&guard, &syn)?;
            ensure!(verdict(&guard, &reset(&syn, number))? == XDP_DROP, "the reset reaches the kernel");
            ensure!(verdict(&guard, &syn)? == XDP_PASS, "the SYN is not let in");
            ensure!(verdict(&guard, &syn)? == XDP_TX, "a second SYN is let in");
            ensure!(verdict(&guard, &reset(&syn, number))? == XDP_DROP);
            ensure!(verdict(&guard, &syn)? == XDP_TX, "a copy of the reset lets a SYN in");
        }
        ensure!(count(&guard, Counter::DropReturnedReset)? == 4);
        ensure!(count(&guard, Counter::SynTracked)? + count(&guard, Counter::SynUntracked)? == 2);
        ensure!(count(&guard, Counter::SynPrompted)? == 6);
    }
    Ok(())
}

#[test]
fn other_resets_release_nothing_and_reach_the_kernel() -> Result<()> {
    let mut guard = challenging(Hook::Xdp)?;
    let syn = syn();
    let number = prompted(&guard, &syn)?;
    let right = reset(&syn, number);
    let others = [
        ("another number", reset(&syn, number + 1)),
        ("another client port", Frame { source_port: syn.source_port + 1, ..right.clone() }),
        ("another client", Frame { source: address("198.18.1.2"), ..right.clone() }),
        ("another address", Frame { destination: address("198.18.0.2"), ..right.clone() }),
        ("another port", Frame { destination_port: PORT + 1, ..right.clone() }),
    ];
    for (what, other) in others {
        ensure!(verdict(&guard, &other)? == XDP_PASS, "{what}: consumed");
        ensure!(verdict(&guard, &syn)? == XDP_TX, "{what}: released");
    }
    // The reset of a connection that was closed, with the number that its own SYN-ACK acknowledged.
    ensure!(verdict(&guard, &reset(&syn, syn.sequence + 1))? == XDP_PASS);
    let (older, newer) = (Secret { epoch: 98, ..SECRET }, Secret { epoch: 101, ..SECRET });
    guard.maps.lease.grant(&lease(older, older))?;
    let of_older = prompted(&guard, &syn)?;
    guard.maps.lease.grant(&lease(newer, SECRET))?;
    ensure!(verdict(&guard, &reset(&syn, of_older))? == XDP_PASS, "an epoch that is over");
    ensure!(verdict(&guard, &right)? == XDP_DROP, "the epoch before");
    ensure!(verdict(&guard, &syn)? == XDP_PASS);
    guard.maps.lease.grant(&Lease { flags: 0, ..lease(SECRET, SECRET) })?;
    ensure!(verdict(&guard, &right)? == XDP_PASS, "without a challenge");
    Ok(())
}

#[test]
fn gateways_that_share_a_key_accept_each_other_s_resets() -> Result<()> {
    let (first, second) = (challenging(Hook::Xdp)?, challenging(Hook::Xdp)?);
    for syn in [syn(), syn_ipv6()] {
        let number = prompted(&first, &syn)?;
        ensure!(verdict(&second, &reset(&syn, number))? == XDP_DROP, "the other gateway's");
        ensure!(verdict(&second, &syn)? == XDP_PASS && verdict(&first, &syn)? == XDP_TX);
    }
    Ok(())
}

#[test]
fn syns_to_protected_networks_are_challenged_and_others_forwarded() -> Result<()> {
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut guard = challenging(hook)?;
        let flags = lease(SECRET, SECRET).flags | flag::PROTECTED | flag::REDIRECTED | flag::LISTENERS_KNOWN;
        guard.maps.lease.grant(&Lease { flags, ..lease(SECRET, SECRET) })?;
        guard.maps.protected.set(&[protect(&["198.18.64.0/24", "2001:db8:64::/64"], &[80, PORT])])?;
        let place = place::of_protected(1).context("a place")?;
        let terms = PortChallenge { flags: port_flag::RESET, ..PortChallenge::default() };
        guard.maps.challenges.set_terms(&[(place, Some(terms))].into())?;
        for (syn, server) in [(syn(), "198.18.64.9"), (syn_ipv6(), "2001:db8:64::9")] {
            let syn = Frame { destination: address(server), ..syn };
            let number = prompted(&guard, &syn)?;
            ensure!(verdict(&guard, &reset(&syn, number.wrapping_add(1)))? == XDP_PASS, "another number");
            ensure!(verdict(&guard, &syn)? == XDP_TX);
            ensure!(verdict(&guard, &reset(&syn, number))? == XDP_DROP, "{hook:?}: the reset is forwarded");
            ensure!(verdict(&guard, &syn)? == XDP_PASS, "{hook:?}: the SYN is not forwarded");
            ensure!(verdict(&guard, &syn)? == XDP_TX, "a second SYN");
            ensure!(verdict(&guard, &Frame { destination_port: 80, ..syn.clone() })? == XDP_PASS, "another port");
            ensure!(
                verdict(&guard, &Frame { destination_port: 81, ..syn })? == XDP_PASS,
                "a port that is not protected"
            );
        }
        let stranger = Frame { destination: address("198.18.65.9"), ..syn() };
        ensure!(verdict(&guard, &stranger)? == XDP_PASS);
        // One to each protected port without a challenge, and one that came back, for each family.
        ensure!(count(&guard, Counter::SynTracked)? == 4 && count(&guard, Counter::SynCameBack)? == 2);
        ensure!(count(&guard, Counter::SynForwarded)? == 3, "{}", count(&guard, Counter::SynForwarded)?);
        ensure!(count(&guard, Counter::SynPrompted)? == 6);
    }
    Ok(())
}

fn protect(networks: &[&str], ports: &[u16]) -> Protect {
    let networks = networks.iter().map(|network| network.parse().expect("a network")).collect();
    Protect { name: "shop".to_owned(), networks, ports: ports.to_vec(), ..Protect::default() }
}

#[test]
fn a_client_whose_resets_are_suppressed_is_let_in_by_its_retransmit() -> Result<()> {
    let guard = challenging(Hook::Xdp)?;
    let syn = syn();
    ensure!(verdict(&guard, &syn)? == XDP_TX && verdict(&guard, &syn)? == XDP_TX, "at once");
    thread::sleep(Duration::from_secs(1));
    ensure!(verdict(&guard, &Frame { sequence: 7, ..syn.clone() })? == XDP_TX, "another SYN");
    ensure!(verdict(&guard, &syn)? == XDP_PASS, "a retransmit after a second did not pass");
    Ok(())
}

#[test]
fn guesses_release_one_flow_in_thirty_thousand_at_most() -> Result<()> {
    let mut guard = challenging(Hook::Xdp)?;
    // Codes of two epochs are accepted.
    guard.maps.lease.grant(&lease(SECRET, Secret { epoch: 99, ..SECRET }))?;
    let mut tries = 0u32;
    for source_port in 10_000..10_002 {
        let syn = Frame { source_port, ..syn() };
        for sequence in 0..RANGE {
            verdict(&guard, &reset(&syn, sequence.wrapping_mul(65_537)))?;
            tries += 1;
        }
    }
    let released = count(&guard, Counter::DropReturnedReset)?;
    // Each code is tried once, so that each epoch's is found once for each port.
    ensure!(released == 2 * 2, "{released} of {tries}");
    let passed = count(&guard, Counter::Rst)?;
    ensure!(passed + released == u64::from(tries), "{passed} + {released} of {tries}");
    Ok(())
}

#[test]
fn a_flow_is_released_for_another_port_of_its_client() -> Result<()> {
    // An address translation that saw the reset gives the next SYN another port.
    let guard = challenging(Hook::Xdp)?;
    for syn in [syn(), syn_ipv6()] {
        let number = prompted(&guard, &syn)?;
        ensure!(verdict(&guard, &reset(&syn, number))? == XDP_DROP);
        ensure!(verdict(&guard, &Frame { source_port: 50_001, ..syn.clone() })? == XDP_PASS);
        ensure!(verdict(&guard, &Frame { source_port: 50_002, ..syn.clone() })? == XDP_TX, "a second one");
    }
    Ok(())
}

#[test]
fn what_is_not_for_the_host_is_not_answered() -> Result<()> {
    let mut guard = challenging(Hook::Xdp)?;
    let elsewhere = Frame { destination: address("198.18.0.9"), ..syn() };
    ensure!(verdict(&guard, &elsewhere)? == XDP_PASS, "a SYN for another host");
    // Where the host's addresses are not known, SYNs are dropped until they are retransmitted.
    guard.maps.lease.grant(&Lease { flags: flag::DROP | flag::CHALLENGE | flag::RESETS, ..lease(SECRET, SECRET) })?;
    ensure!(verdict(&guard, &Frame { source_port: 50_001, ..elsewhere })? == XDP_DROP);
    Ok(())
}

#[test]
fn a_retransmit_of_a_syn_that_passed_is_not_limited() -> Result<()> {
    let guard = challenging(Hook::Xdp)?;
    let number = prompted(&guard, &syn())?;
    ensure!(verdict(&guard, &reset(&syn(), number))? == XDP_DROP);
    ensure!(verdict(&guard, &syn())? == XDP_PASS);
    let other = |source_port| Frame { source_port, sequence: 77, ..syn() };
    for source_port in 10_000..12_000 {
        ensure!(verdict(&guard, &other(source_port))? == XDP_TX);
    }
    // The kernel's answer was lost, and many whose resets are suppressed retransmit at the same time.
    ensure!(verdict(&guard, &syn())? == XDP_TX, "at once");
    thread::sleep(Duration::from_millis(1100));
    let let_in = (10_000..12_000).map(|port| verdict(&guard, &other(port))).collect::<Result<Vec<_>>>()?;
    let let_in = let_in.iter().filter(|verdict| **verdict == XDP_PASS).count();
    ensure!((125..=1000).contains(&let_in), "{let_in} of 2,000 were let in");
    ensure!(verdict(&guard, &syn())? == XDP_PASS, "the client has answered, and waits for nothing");
    Ok(())
}

#[test]
fn established_connections_keep_their_resets() -> Result<()> {
    let guard = challenging(Hook::Xdp)?;
    let number = prompted(&guard, &syn())?;
    // A reset with ACK is none that answers a wrong SYN-ACK (RFC 9293 3.10.7.3).
    ensure!(verdict(&guard, &reset(&syn(), number).flags(RST | ACK))? == XDP_PASS);
    Ok(())
}
