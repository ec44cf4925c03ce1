//! Destinations behind this host: ports that are redirected to another namespace or host (DNAT, IPVS), and networks that this
//! host protects as a gateway. Their handshakes complete elsewhere, and are observed in the packets that pass.
//!
//! | module | subject |
//! | --- | --- |
//! | [`places`] | what a destination is counted under |
//! | [`hand_over`] | continuing with a SYN in the program that judges it |
//! | [`replies`] | the SYN-ACKs of the servers |
//! | [`acknowledgement`] | the segments by which clients acknowledge them |

pub mod acknowledgement;
pub mod hand_over;
pub mod places;
pub mod replies;
