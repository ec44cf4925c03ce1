use super::*;

fn refused(text: &str) -> String {
    Config::parse(text, "tcpguard.toml").expect_err("this must be refused").to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("", "x").expect("valid"), Config::default());
}

#[test]
fn the_effective_file_reads_back_as_itself() {
    let text = r#"
        interfaces = ["eth0", "eth1"]
        xdp_mode = "generic"
        syn_attack_protect = 1
        on_exit = "keep"
        [thresholds]
        max_half_open = 1000
        hold = "1m 30s"
        [source]
        block_for = "2m"
        prefix_v6 = 56
        [challenge]
        mode = "never"
        [lists]
        allow = ["198.51.100.7", "2001:db8::/48"]
        deny = ["203.0.113.9/24"]
        deny_files = ["/etc/tcpguard/deny"]
        keep_ssh = false
        [[service]]
        ports = [443]
        max_half_open = 2000
        [listen]
        http = "[::1]:9000"
        socket = "/run/x.sock"
        [limits]
        max_sources = 2048
        heartbeat_timeout = "3s"
        [notify]
        command = ["/usr/bin/page", "--now"]
        webhook = "https://hooks.example/tcpguard"
        timeout = "2s"
        retries = 1
        most_per_hour = 5
    "#;
    let config = Config::parse(text, "x").expect("valid");
    assert_eq!(config.lists.deny[0].to_string(), "203.0.113.0/24");
    assert_eq!(config.thresholds.hold, Duration::from_secs(90));
    let printed = toml::to_string(&config).expect("serialises");
    assert_eq!(Config::parse(&printed, "x").expect("valid"), config, "{printed}");
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    let message = refused("xdp_mode = \"auto\"\n\n[source]\n  max_halfopen = 3\n");
    assert!(message.starts_with("tcpguard.toml:4:3: unknown field `max_halfopen`"), "{message}");
}

#[test]
fn ill_typed_values_are_refused_with_their_place() {
    let message = refused("[thresholds]\nmax_half_open = \"many\"\n");
    assert!(message.starts_with("tcpguard.toml:2:17: invalid type"), "{message}");
    assert!(refused("interfaces = \"eth0\"").starts_with("tcpguard.toml:1:14: "));
    assert!(refused("[thresholds]\nhold = \"soon\"").starts_with("tcpguard.toml:2:8: "));
    assert!(refused("[lists]\nallow = [\"300.1.1.1\"]").contains("is not a network"));
    assert!(refused("x = = 1").starts_with("tcpguard.toml:1:5: "));
}

#[test]
fn values_out_of_range_are_refused_with_their_place() {
    for (text, place) in [
        ("syn_attack_protect = 3", "1:22"),
        ("[thresholds]\nmax_half_open = 0", "2:17"),
        ("[thresholds]\nleave_ratio = 1.5", "2:15"),
        ("[thresholds]\nhold = \"0s\"", "2:8"),
        ("[thresholds]\nmax_half_open = 10\nmax_half_open_retried = 11", "3:25"),
        ("[source]\nprefix_v4 = 33", "2:13"),
        ("[source]\nblock_for = \"2h\"", "2:13"),
        ("[limits]\nmax_sources = 10", "2:15"),
        ("[listen]\nhttp = \"localhost\"", "2:8"),
        ("[listen]\nsocket = \"tcpguard.sock\"", "2:10"),
        ("interfaces = [\"eth0\", \"eth0\"]", "1:14"),
        ("interfaces = [\"\"]", "1:14"),
        ("interfaces = [\"an-interface-of-many-letters\"]", "1:14"),
        ("[[service]]\nports = [0]", "2:9"),
    ] {
        let message = refused(text);
        assert!(message.starts_with(&format!("tcpguard.toml:{place}: ")), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn the_retried_threshold_follows_a_lower_one_down() {
    let config = Config::parse("[thresholds]\nmax_half_open = 100", "x").expect("valid");
    assert_eq!(config.thresholds.max_half_open_retried, 100);
}

#[test]
fn a_missing_file_is_one_sentence() {
    let message = Config::load(std::path::Path::new("/nonexistent/tcpguard.toml")).expect_err("missing").to_string();
    assert_eq!(
        message,
        "cannot read the configuration /nonexistent/tcpguard.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn whom_to_tell_must_make_sense() {
    for (text, word) in [
        ("[notify]\ncommand = [\"page\"]", "absolute path of a program"),
        ("[notify]\nwebhook = \"hooks.example\"", "must begin with http"),
        ("[notify]\nwebhook = \"file:///etc/passwd\"", "must begin with http"),
        ("[notify]\ntimeout = \"2h\"", "out of range"),
        ("[notify]\nmost_per_hour = 0", "out of range"),
        ("[listen]\nhosts = [\"guard.example:443\"]", "without a port"),
    ] {
        assert!(refused(text).contains(word), "{text}: {}", refused(text));
    }
}

#[test]
fn the_names_of_windows_lead_to_the_right_key() {
    for (text, key) in [
        ("SynAttackProtect = 2", "syn_attack_protect"),
        ("TcpMaxHalfOpen = 500", "max_half_open in [thresholds]"),
        ("[thresholds]\nTcpMaxHalfOpenRetried = 400", "max_half_open_retried in [thresholds]"),
        ("[thresholds]\ntcpmaxportsexhausted = 5", "max_ports_exhausted in [thresholds]"),
    ] {
        let error = Config::parse(text, "tcpguard.toml").expect_err("no such key").to_string();
        assert!(error.ends_with(&format!("set {key}")), "{error}");
    }
}

#[test]
fn fuzz_configuration() {
    let example = include_bytes!("../../../packaging/tcpguard.toml");
    let whole = toml::to_string(&Config::default()).expect("TOML");
    let seeds: [&[u8]; 3] = [
        example,
        whole.as_bytes(),
        b"interfaces = [\"eth*\"]\n[thresholds]\nhold = \"10s\"\n[[service]]\nports = [443]\n[lists]\nallow = [\"::1\"]\n",
    ];
    crate::fuzz::run(&seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match Config::parse(text, "fuzz") {
            // What `tcpguard check` prints is the same configuration.
            Ok(config) => {
                let printed = toml::to_string(&config).expect("TOML");
                assert_eq!(Config::parse(&printed, "again").expect("valid"), config, "{text}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
