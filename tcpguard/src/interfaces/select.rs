//! The interfaces that the configuration selects: by name, by pattern, or by the default route.

use std::fmt;

use glob::Pattern;

use super::{Link, Links};
use crate::{config::Config, datapath::DatapathError};

/// A selection of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    names: Vec<String>,
    patterns: Vec<Pattern>,
}

/// Returns whether an entry of `interfaces` in the configuration is a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

impl Selection {
    /// Returns the selection of `config`; if it lists no interfaces, that of the default route.
    ///
    /// # Errors
    /// Returns an error if there is no default route, or the kernel does not answer.
    pub async fn of(config: &Config, links: &Links) -> Result<Self, DatapathError> {
        if config.interfaces.is_empty() {
            let name = links.default_route_interface().await?.ok_or(DatapathError::NoDefaultRoute)?;
            return Ok(Self { names: vec![name], patterns: Vec::new() });
        }
        let (patterns, names): (Vec<&String>, Vec<&String>) =
            config.interfaces.iter().partition(|name| is_pattern(name));
        // All patterns are valid: the configuration was validated.
        let patterns = patterns.into_iter().filter_map(|text| Pattern::new(text).ok());
        Ok(Self { names: names.into_iter().cloned().collect(), patterns: patterns.collect() })
    }

    /// Returns the interfaces selected by name.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether an interface is selected by this name.
    pub fn has_named(&self, name: &str) -> bool {
        self.names.iter().any(|named| named == name)
    }

    /// Returns the interfaces in `links` that match a pattern and are not selected by name. An interface that is
    /// stacked on a selected one, or has one as its port, is left out: its traffic is seen there.
    pub fn matching<'a>(&self, links: &'a [Link]) -> Vec<&'a Link> {
        let matches = |link: &Link| {
            link.is_ethernet && link.name != "lo" && self.patterns.iter().any(|pattern| pattern.matches(&link.name))
        };
        let is_selected = |link: &Link| self.has_named(&link.name) || matches(link);
        let is_seen_elsewhere = |link: &Link| {
            links.iter().any(|other| {
                is_selected(other) && (link.lower == Some(other.index) || other.master == Some(link.index))
            })
        };
        links.iter().filter(|link| !self.has_named(&link.name) && matches(link) && !is_seen_elsewhere(link)).collect()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = self.patterns.iter().map(Pattern::as_str);
        let all: Vec<&str> = self.names.iter().map(String::as_str).chain(patterns).collect();
        formatter.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            is_ethernet: true,
            xdp: None,
            mtu: 1500,
            is_veth: false,
            lower: None,
            master: None,
        }
    }

    fn matched(names: &[&str], patterns: &[&str], links: &[Link]) -> Vec<String> {
        let patterns = patterns.iter().map(|text| Pattern::new(text).expect("a pattern")).collect();
        let selection = Selection { names: names.iter().map(|name| (*name).to_owned()).collect(), patterns };
        selection.matching(links).iter().map(|link| link.name.clone()).collect()
    }

    #[test]
    fn patterns_select_what_no_name_does() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "wlan0"), link(5, "eth10")];
        assert_eq!(matched(&["eth0"], &["eth*"], &links), ["eth1", "eth10"]);
        assert_eq!(matched(&[], &["eth?"], &links), ["eth0", "eth1"]);
        assert_eq!(matched(&[], &["*"], &links), ["eth0", "eth1", "wlan0", "eth10"]);
        assert_eq!(matched(&[], &["eth[02-9]"], &links), ["eth0"]);
    }

    #[test]
    fn what_is_seen_below_is_not_seen_twice() {
        let port = Link { master: Some(4), ..link(2, "eth0") };
        let vlan = Link { lower: Some(2), ..link(3, "eth0.7") };
        let links = [port, vlan, link(4, "bond0"), link(5, "tap0")];
        assert_eq!(matched(&[], &["*"], &links), ["eth0", "tap0"]);
        assert_eq!(matched(&[], &["bond*"], &links), ["bond0"]);
        assert_eq!(matched(&["eth0"], &["eth0.*", "bond*"], &links), Vec::<String>::new());
    }
}
