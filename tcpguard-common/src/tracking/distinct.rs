//! The number of distinct sources in a second, after HyperLogLog (Flajolet et al., 2007).
//!
//! A register keeps the smallest hash mapped to it instead of the usual count of leading zeros: this takes one
//! comparison in the datapath, and the daemon counts the zeros. The period is part of the register, so that
//! registers are never cleared; two banks alternate, so that the last complete period can be read.

/// Registers of one bank; the standard error of the estimate is 1.04 / √1024 = 3.3 %.
pub const REGISTERS: usize = 1024;
/// Registers of both banks.
pub const BOTH_BANKS: usize = 2 * REGISTERS;

/// Both banks of one CPU as stored in the map.
pub type Registers = [u64; BOTH_BANKS];

/// Returns the register of a source in `period` and the source's value for it; a register keeps the greatest
/// value.
#[inline(always)]
pub const fn observation(hash: u64, period: u32) -> (usize, u64) {
    let register = (hash >> 44) as usize & (REGISTERS - 1);
    let bank = (period as usize & 1) * REGISTERS;
    (bank + register, (period as u64) << 32 | !(hash as u32) as u64)
}

/// Returns the estimated number of distinct sources in `period`, over the registers of all CPUs.
pub fn estimate<'a>(cpus: impl Iterator<Item = &'a Registers> + Clone, period: u32) -> f64 {
    let bank = (period as usize & 1) * REGISTERS;
    let mut sum = 0.0;
    let mut untouched = 0u32;
    for register in bank..bank + REGISTERS {
        let smallest = cpus
            .clone()
            .map(|registers| registers[register])
            .filter(|word| (word >> 32) as u32 == period)
            .map(|word| !(word as u32))
            .min();
        let rank = smallest.map_or(0, |hash| hash.leading_zeros() + 1);
        untouched += u32::from(rank == 0);
        sum += 1.0 / (1u64 << rank) as f64;
    }
    let registers = REGISTERS as f64;
    let bias = 0.7213 / (1.0 + 1.079 / registers);
    let raw = bias * registers * registers / sum;
    if raw <= 2.5 * registers && untouched > 0 { linear_count(registers, f64::from(untouched)) } else { raw }
}

/// Estimates a small number of sources from the share of untouched registers: m · ln(m / untouched).
fn linear_count(registers: f64, untouched: f64) -> f64 {
    // Both numbers of registers are whole, so a short series for the logarithm suffices, without libm.
    let ratio = registers / untouched;
    registers * natural_logarithm(ratio)
}

/// Returns ln(x) for x from 1 to 1024: halvings for the exponent, then the series of the inverse hyperbolic
/// tangent.
pub(crate) fn natural_logarithm(mut x: f64) -> f64 {
    let mut halvings = 0.0;
    while x > 1.5 {
        x /= 2.0;
        halvings += 1.0;
    }
    let t = (x - 1.0) / (x + 1.0);
    let (mut term, mut sum) = (t, 0.0);
    for odd in [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0] {
        sum += term / odd;
        term *= t * t;
    }
    halvings * core::f64::consts::LN_2 + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hash;

    fn observe(registers: &mut Registers, sources: core::ops::Range<u32>, period: u32) {
        for n in sources {
            let (register, word) = observation(hash::address(42, Ipv4Addr::from(n).into()), period);
            registers[register] = registers[register].max(word);
        }
    }

    #[test]
    fn the_estimate_is_within_its_error() {
        for truth in [0, 1, 10, 100, 1000, 5000, 100_000, 2_000_000] {
            let mut registers = [0; BOTH_BANKS];
            observe(&mut registers, 0..truth, 8);
            let estimate = estimate([&registers].into_iter(), 8);
            let allowed = f64::from(truth) * 0.1 + 0.5;
            assert!((estimate - f64::from(truth)).abs() <= allowed, "{truth}: {estimate}");
        }
    }

    #[test]
    fn cpus_are_united_not_added() {
        let mut first = [0; BOTH_BANKS];
        let mut second = [0; BOTH_BANKS];
        observe(&mut first, 0..6000, 3);
        observe(&mut second, 2000..8000, 3);
        let estimate = estimate([&first, &second].into_iter(), 3);
        assert!((7200.0..8800.0).contains(&estimate), "{estimate}");
    }

    #[test]
    fn the_last_period_survives_the_next() {
        let mut registers = [0; BOTH_BANKS];
        observe(&mut registers, 0..1000, 8);
        observe(&mut registers, 0..50_000, 9);
        let before = estimate([&registers].into_iter(), 8);
        assert!((900.0..1100.0).contains(&before), "{before}");
        observe(&mut registers, 0..10, 10);
        assert!(estimate([&registers].into_iter(), 10) < 12.0);
    }

    #[test]
    fn the_logarithm_is_the_logarithm() {
        for x in [1.0, 1.001, 1.5, 2.0, 10.0, 333.3, 1024.0f64] {
            assert!((natural_logarithm(x) - x.ln()).abs() < 1e-6, "{x}");
        }
    }
}
