//! The `tcpguard` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpguard::cli::main()
}
