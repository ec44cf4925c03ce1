//! The timestamp of an answer with a cookie. It holds the time and, in its lowest bits, the negotiated options:
//! the client echoes it, and the kernel decodes it like a timestamp of its own (`cookie_init_timestamp` and
//! `cookie_timestamp_decode` in net/ipv4/syncookies.c, with `net.ipv4.tcp_timestamps` = 2).

/// The number of low bits that hold the negotiated options.
const BITS: u32 = 6;
const SACK: u32 = 1 << 4;
const ECN: u32 = 1 << 5;
const NO_WINDOW_SCALE: u32 = 0xf;

/// The options negotiated for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The client's window scale; `None` if windows are not scaled.
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements are permitted.
    pub sack: bool,
    /// Whether explicit congestion notification (ECN) is used.
    pub ecn: bool,
}

impl Agreed {
    #[inline(always)]
    const fn bits(self) -> u32 {
        let scale = match self.window_scale {
            Some(scale) => scale as u32 & NO_WINDOW_SCALE,
            None => NO_WINDOW_SCALE,
        };
        scale | if self.sack { SACK } else { 0 } | if self.ecn { ECN } else { 0 }
    }
}

/// Returns the latest timestamp not after `milliseconds` (of the kernel's TCP timestamp clock) that holds these
/// options.
#[inline(always)]
pub const fn timestamp(milliseconds: u32, agreed: Agreed) -> u32 {
    let bits = agreed.bits();
    let stamp = milliseconds >> BITS << BITS | bits;
    if bits > milliseconds & ((1 << BITS) - 1) { stamp.wrapping_sub(1 << BITS) } else { stamp }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_never_runs_ahead() {
        let all = Agreed { window_scale: Some(7), sack: true, ecn: true };
        assert_eq!(timestamp(0x1_0000 | 0x37, all), 0x1_0000 | 0x37);
        assert_eq!(timestamp(0x1_0000 | 0x36, all), 0x1_0000 - 0x40 + 0x37);
        let none = Agreed { window_scale: None, sack: false, ecn: false };
        assert_eq!(timestamp(0x1_0000, none), 0x1_0000 - 0x40 + 0xf);
    }

    proptest! {
        #[test]
        fn what_was_agreed_to_can_be_read(now in any::<u32>(), scale in proptest::option::of(0u8..15), sack in any::<bool>(), ecn in any::<bool>()) {
            let stamp = timestamp(now, Agreed { window_scale: scale, sack, ecn });
            prop_assert!(now.wrapping_sub(stamp) < 128);
            prop_assert_eq!(stamp & 0xf, u32::from(scale.unwrap_or(15)));
            prop_assert_eq!(stamp & 0x10 != 0, sack);
            prop_assert_eq!(stamp & 0x20 != 0, ecn);
        }
    }
}
