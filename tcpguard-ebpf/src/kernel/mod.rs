//! What the kernel knows: its connections, and the handshakes that its tracepoints report.

pub mod connections;
pub mod handshake;
