//! Returning memory to the kernel that was needed for a moment only.
//!
//! By default, glibc keeps an arena per thread, raises its threshold for mapping large blocks by themselves to up to
//! 32 MiB, and with it how much unused memory it keeps: after a few large answers, as much again as the daemon needs.

/// The size in bytes from which on a block is mapped by itself, and how much unused memory is kept: glibc's defaults at the
/// start of a process.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 * 1024;

/// Configures the allocator to keep little memory that is not in use. Must be called before the first thread is started.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, THRESHOLD), (libc::M_TRIM_THRESHOLD, THRESHOLD)]
    {
        // SAFETY: the function takes two numbers.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Returns memory that is not in use to the kernel. A start needs some ten MiB to read the kernel's types, and a long list
/// file as much again, which the allocator would keep.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, and gives back only memory that nothing is allocated in.
    unsafe {
        libc::malloc_trim(0);
    }
}
