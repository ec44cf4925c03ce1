//! What the daemon sets before loading. The verifier sees constants.

use aya_ebpf::Global;
use tcpguard_common::{
    address::PrefixMasks,
    clock::Clock,
    layout::{Settings, SocketLayout},
};

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    hash_key: 0,
    prefixes: PrefixMasks::new(24, 64),
    clock: Clock::new(250),
    admissions_per_epoch: 0,
    filter_blocks: 1,
    namespace: 0,
});

#[unsafe(no_mangle)]
static SOCKET_LAYOUT: Global<SocketLayout> = Global::new(SocketLayout {
    family: 0,
    remote_ipv4: 0,
    remote_ipv6: 0,
    remote_port: 0,
    local_port: 0,
    namespace: 0,
    namespace_inode: 0,
    protocol: 0,
    receive_interface: 0,
    known: 0,
});

#[inline(always)]
pub fn settings() -> Settings {
    SETTINGS.load()
}

#[inline(always)]
pub fn socket_layout() -> SocketLayout {
    SOCKET_LAYOUT.load()
}
