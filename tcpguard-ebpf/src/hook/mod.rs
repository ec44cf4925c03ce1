//! Where the programs are attached: XDP, in the driver or right behind it; or, with the feature `tc`, the ingress of
//! traffic control, where the kernel has turned the frame into a socket buffer. The crate is compiled once for each; all
//! differences between them are in this module.

#[cfg(feature = "tc")]
mod tc;
#[cfg(not(feature = "tc"))]
mod xdp;

#[cfg(feature = "tc")]
pub use tc::{Action, Context, RawContext, action, pass_on, prepare, reply, resize};
#[cfg(not(feature = "tc"))]
pub use xdp::{Action, Context, RawContext, action, pass_on, prepare, reply, resize};
