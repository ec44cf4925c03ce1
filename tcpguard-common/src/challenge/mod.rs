//! Challenges for SYNs of unproven sources: a cookie in a SYN-ACK, or a SYN-ACK that is answered by a reset, neither of which
//! requires state, or waiting for the SYN to be retransmitted.
//!
//! | module | subject |
//! | --- | --- |
//! | [`syn_options`] | the TCP options of a SYN |
//! | [`syn_ack`] | the SYN-ACK with a cookie |
//! | [`timestamp`] | the timestamp from which the kernel recovers the options when the cookie is returned |
//! | [`first_syn`] | which SYNs are retransmits |
//! | [`safe_reset`] | SYN-ACKs that are answered by a reset, and the flows that these release |
//! | [`returned_cookie`] | which cookies were returned already |
//! | [`recent_connection`] | connections that were looked up recently |
//! | [`port_load`] | the number of SYNs per port in the current slot |

pub mod first_syn;
pub mod port_load;
pub mod recent_connection;
pub mod returned_cookie;
pub mod safe_reset;
pub mod syn_ack;
pub mod syn_options;
pub mod timestamp;
