//! Checks of what gateways need: forwarding, and the key that they share.

use std::{fs, path::Path};

use super::Finding;
use crate::{config::Config, interfaces::Link, response::challenge::read_key};

const AREA: &str = "gateway";

/// Examines the `[[protect]]` sections and `challenge.key_file`.
pub(super) fn examine(config: &Config, links: &[Link]) -> Vec<Finding> {
    let forwarding = (!config.protected.is_empty()).then(|| forwarding(config, links));
    let key = config.challenge.key_file.path().map(key);
    forwarding.into_iter().chain(key).collect()
}

fn forwarding(config: &Config, links: &[Link]) -> Finding {
    let families: Vec<&str> = ["ipv4", "ipv6"].into_iter().filter(|family| forwards(family)).collect();
    let has_bridge = links.iter().any(|link| link.master.is_some());
    let names: Vec<&str> = config.protected.iter().map(|section| section.name.as_str()).collect();
    let value = match (families.as_slice(), has_bridge) {
        ([], true) => "bridge".to_owned(),
        ([], false) => "off".to_owned(),
        (families, _) => families.join(", "),
    };
    let meaning = format!("the protected networks ({}) are reached through this host", names.join(", "));
    Finding::new(AREA, "forwarding", value, meaning)
        .fix_if(families.is_empty() && !has_bridge, "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
}

/// Returns whether any interface forwards packets of a family.
fn forwards(family: &str) -> bool {
    let Ok(interfaces) = fs::read_dir(format!("/proc/sys/net/{family}/conf")) else { return false };
    let mut settings = interfaces.flatten().map(|interface| interface.path().join("forwarding"));
    settings.any(|setting| fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1"))
}

fn key(path: &Path) -> Finding {
    let finding = |value: String| {
        Finding::new(AREA, "challenge.key_file", value, "gateways that share this key accept each other's challenges")
    };
    match read_key(path) {
        Ok(_) => finding(path.display().to_string()),
        Err(error) => finding(format!("{}: {error}", path.display())).fix(format!(
            "(umask 077; openssl rand -hex 16 > {}), the same file on each gateway, of the user that runs tcpguard",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_key_that_cannot_be_read_is_to_be_fixed() {
        let config = Config::parse("[challenge]\nkey_file = \"/nowhere/key\"", "a test").expect("a configuration");
        let findings = examine(&config, &[]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].status, Status::Fix);
        assert!(examine(&Config::default(), &[]).is_empty());
    }
}
