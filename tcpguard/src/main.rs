//! The `tcpguard` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpguard::cli::main()
}
