//! Arrays with a row of elements for each CPU ([`tcpguard_common::abi::by_cpu`]).

use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_get_smp_processor_id};
use tcpguard_common::abi::by_cpu::key;

use crate::settings;

/// An element of such an array.
pub struct Element<'a, T> {
    pub value: &'a mut T,
    /// Whether other CPUs change it as well: this CPU was not online when the daemon started.
    pub is_shared: bool,
}

/// Returns this CPU's element at `index`.
#[inline(always)]
pub fn element<T, const ELEMENTS: usize>(array: &Array<T, ELEMENTS>, index: u32) -> Option<Element<'_, T>> {
    let rows = settings::cpu_rows();
    // SAFETY: the helper takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let is_shared = cpu >= rows;
    let value = array.get_ptr_mut(key(index, if is_shared { rows } else { cpu }, rows))?;
    // SAFETY: elements of an array live as long as the program. This one is this CPU's own, unless it is shared, which the
    // caller considers.
    Some(Element { value: unsafe { &mut *value }, is_shared })
}
