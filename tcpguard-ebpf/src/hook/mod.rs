//! Where the programs are attached: XDP, in the driver or close behind it; or, by the feature `tc`, the ingress of
//! traffic control, where the kernel has made a socket buffer of the frame. They are compiled once for each; what is
//! different between both stands here and nowhere else.

#[cfg(feature = "tc")]
mod tc;
#[cfg(not(feature = "tc"))]
mod xdp;

#[cfg(feature = "tc")]
pub use tc::{Context, RawContext, Verdict, hand_on, prepare, reply, resize, verdict};
#[cfg(not(feature = "tc"))]
pub use xdp::{Context, RawContext, Verdict, hand_on, prepare, reply, resize, verdict};
