//! Read-modify-write operations on words that several CPUs update concurrently.
//!
//! Rust's atomics do not compile for the BPF target, so the instruction is written out there. On the host,
//! where the same code runs in tests and on copies, a single thread owns the word.

/// Adds `amount` to `word`, wrapping; to subtract, add the negated amount.
#[inline(always)]
pub fn add(word: &mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `word` is a valid, aligned word of a map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = word.wrapping_add(amount);
    }
}

/// Adds `amount` to `word`, wrapping. Other CPUs see what was written before as soon as they see the sum, and what is read
/// afterwards is read afterwards (Documentation/bpf/standardization/instruction-set.rst: with BPF_FETCH). Linux 5.12 or later.
#[inline(always)]
pub fn add_ordered(word: &mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `word` is a valid, aligned word of a map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!(
            "{amount} = atomic_fetch_add((u64 *)({word} + 0), {amount})",
            word = in(reg) word,
            amount = inout(reg) amount => _,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = word.wrapping_add(amount);
    }
}

/// Adds `amount` to `word`, wrapping; to subtract, add the negated amount.
#[inline(always)]
pub fn add_u32(word: &mut u32, amount: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `word` is a valid, aligned word of a map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!("lock *(u32 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) u64::from(amount));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = word.wrapping_add(amount);
    }
}

/// Sets `word` to zero by an instruction of its own. The compiler turns plain assignments to many words into a call, whose stack
/// counts towards the program's.
#[inline(always)]
pub fn clear(word: &mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: `word` is a valid, aligned word of a map; the instruction touches nothing else.
    unsafe {
        core::arch::asm!("*(u64 *)({word} + 0) = {zero}", word = in(reg) word, zero = in(reg) 0_u64);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = 0;
    }
}

/// Sets `word` to `new` if it is `old`, and returns whether it was.
#[inline(always)]
pub fn compare_exchange(word: &mut u64, old: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: `word` is a valid, aligned word of a map; the instruction touches nothing else. Linux 5.12 or later.
        unsafe {
            core::arch::asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") old => found);
        }
        found == old
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let is_old = *word == old;
        if is_old {
            *word = new;
        }
        is_old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_exchanged_only_if_it_is_the_expected_one() {
        let mut word = 7;
        assert!(!compare_exchange(&mut word, 6, 9) && word == 7);
        assert!(compare_exchange(&mut word, 7, 9) && word == 9);
    }
}
