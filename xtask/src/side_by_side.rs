//! Which lab tests may run at the same time.

/// Tests that leave most of the machine idle, measure no times and look at nothing that all namespaces share (such as the
/// list of loaded BPF programs), by the start of their paths. They run beside each other; every other test has the
/// machine to itself.
pub const SIDE_BY_SIDE: &[&str] = &[
    "answers::",
    "availability::",
    "benign::",
    "bypasses::",
    "coexistence::",
    "commands::",
    "cookies::",
    "counting::",
    "dashboard::",
    "disabling::",
    "distance::",
    "doctor::",
    "enforcement::",
    "evidence::",
    "explain::",
    "gateway::",
    "hostile::",
    "instruction_counts::",
    "killpoints::",
    "limits::",
    "lists::",
    "notify::",
    "packet_tables::",
    "reachability::",
    "refusals::",
    "reload::",
    "signatures::",
    "ssh::",
    "strays::",
    "terminal::",
];

/// Exceptions from [`SIDE_BY_SIDE`]: tests that measure times or whose floods need a whole processor.
pub const ALONE: &[&str] = &[
    "distance::at_length::",
    // Its server has to accept hundreds of connections within 50 ms, and its queue holds 128.
    "distance::calm::a_crowd_that_arrives_at_once",
    "distance::calm::five_thousand",
    "distance::calm::twenty_thousand",
    "enforcement::a_killed_daemon",
    "enforcement::the_first_drop_comes_within_300_ms",
    "gateway::a_crowd",
    // Once, beside others, the completion of the first IPv6 handshake was not counted; the cause is not known.
    "gateway::handshakes_that_pass",
    "gateway::more_handshakes",
    "hostile::a_mixture",
    "hostile::one_source",
    "hostile::ten_sources",
    "limits::a_daemon_that_costs_too_much",
    // It runs a copy of the daemon: another test that starts a process at that moment still has the copy open for writing.
    "refusals::without_privilege",
    "signatures::a_tools_flood",
];

/// Returns whether a test, given by its path in the test binary, may run beside others.
pub fn runs_side_by_side(test: &str) -> bool {
    let starts = |list: &[&str]| list.iter().any(|start| test.starts_with(start));
    starts(SIDE_BY_SIDE) && !starts(ALONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_decides() {
        assert!(runs_side_by_side("refusals::bad_usage_exits_with_2"));
        assert!(!runs_side_by_side("hostile::one_source"), "an exception");
        assert!(!runs_side_by_side("spoofed::phase_after_phase"));
        assert!(!runs_side_by_side("main"), "a thread that is no test's");
    }

    #[test]
    fn every_exception_belongs_to_a_rule() {
        for test in ALONE {
            assert!(SIDE_BY_SIDE.iter().any(|start| test.starts_with(start)), "{test}");
        }
    }
}
