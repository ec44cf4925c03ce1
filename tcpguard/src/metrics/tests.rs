use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;

struct Page(Stats);

impl AsRef<Stats> for Page {
    fn as_ref(&self) -> &Stats {
        &self.0
    }
}

fn encoded(stats: Stats, format: Format) -> String {
    encode(Arc::new(Page(stats)), format).expect("it is encoded")
}

/// Returns a sample of `/stats` with a distinct number in each numeric field, and the path of the field of each
/// number.
fn numbered() -> (Stats, BTreeMap<u64, String>) {
    let mut value = serde_json::to_value(crate::api::model::sample()).expect("JSON");
    let mut places = BTreeMap::new();
    number(&mut value, "", &mut places);
    (serde_json::from_value(value).expect("it is /stats still"), places)
}

fn number(value: &mut Value, place: &str, places: &mut BTreeMap<u64, String>) {
    match value {
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(name, value)| number(value, &format!("{place}.{name}"), places));
        }
        Value::Array(rows) => rows.iter_mut().for_each(|value| number(value, &format!("{place}[]"), places)),
        // Levels and ports do not fit the large numbers.
        Value::Number(_) if place.ends_with("port") || place.ends_with("ports[]") || place.ends_with("protect") => {}
        Value::Number(_) => {
            let next = 1_000_001 + places.len() as u64;
            places.insert(next, place.to_owned());
            *value = json!(next);
        }
        _ => {}
    }
}

#[test]
fn every_number_of_stats_is_a_metric() {
    let (stats, places) = numbered();
    let text = encoded(stats, Format::Text);
    let values: BTreeSet<u64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|value| value as u64)
        .collect();
    // An attacker chooses these values: a few fields of sources are exported by rank, none of prefixes.
    let left_out = |place: &str| place.starts_with(".sources[]") || place.starts_with(".prefixes[]");
    let missing: Vec<&String> = places
        .iter()
        .filter(|(value, place)| !values.contains(value) && !left_out(place))
        .map(|(_, place)| place)
        .collect();
    assert!(places.len() > 100, "{places:?}");
    assert!(missing.is_empty(), "not in /metrics: {missing:?}");
}

#[test]
fn every_metric_has_help_and_a_sound_name() {
    let (stats, _) = numbered();
    let text = encoded(stats, Format::Text);
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("name and kind");
        let help = format!("# HELP {name} ");
        assert!(text.lines().any(|line| line.strip_prefix(&help).is_some_and(|help| help.len() > 10)), "{name}");
        assert!(name.starts_with("tcpguard_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} has no value");
    }
}

#[test]
fn who_attacks_cannot_add_metrics() {
    let mut stats = crate::api::model::sample();
    let plain = encoded(crate::api::model::sample(), Format::OpenMetrics).lines().count();
    let source = || crate::api::model::sample().sources.remove(0);
    stats.sources = (0..1000).map(|_| source()).collect();
    let port_of_sample = serde_json::to_string(&stats.ports[0]).expect("JSON");
    for port in 1..60_000 {
        let mut closed: crate::api::model::Port = serde_json::from_str(&port_of_sample).expect("a port");
        (closed.port, closed.backlog) = (port, 0);
        stats.ports.push(closed);
    }
    let lines = encoded(stats, Format::OpenMetrics).lines().count();
    assert!(lines <= plain + 3 * 10, "{plain} lines became {lines}");
}
