use super::*;
use crate::events::{EventKind, EventLog, Note};

fn note(n: usize) -> Note {
    Note::new(EventKind::ListChanged, format!("change {n}"))
}

fn log_at(path: &Path) -> EventLog {
    let (store, saved) = Store::open(path);
    EventLog::new(store, saved.events)
}

#[test]
fn events_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new").join("events.sqlite");
    let log = log_at(&path);
    log.record(note(1).about("198.18.0.0/16").evidence(vec!["one".to_owned()]));
    log.record(note(2));
    log.flush();
    let before = log.list(None, 10);
    drop(log);
    let log = log_at(&path);
    assert_eq!(log.list(None, 10), before);
    log.record(note(3));
    assert_eq!(log.list(None, 1)[0].id, 3);
}

#[test]
fn a_damaged_store_is_set_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.sqlite");
    fs::write(&path, "this is no database, however long it may be ".repeat(100)).expect("written");
    let log = log_at(&path);
    log.record(note(1));
    log.flush();
    assert_eq!(log_at(&path).list(None, 10).len(), 1);
    let names = fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok);
    assert!(names.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("damaged")));
}

#[test]
fn lists_and_blocks_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tcpguard.sqlite");
    let (store, saved) = Store::open(&path);
    assert!(saved.entries.is_empty() && saved.blocks.is_empty() && saved.situation.is_none());
    let network = |text: &str| text.parse::<Network>().expect("a network");
    let entry = |list, text, until| SavedEntry { list, network: network(text), reason: Some("why".to_owned()), until };
    let lasts = Duration::from_secs(60);
    let until = Some((PersistentTime::after(lasts), lasts));
    let kept = entry(ListName::Deny, "198.18.0.0/24", until);
    store.write(Record::Entry(kept.clone()));
    store.write(Record::Entry(entry(ListName::Allow, "198.18.0.0/24", None)));
    store.write(Record::NoEntry(ListName::Allow, network("198.18.0.0/24")));
    let block = SavedBlock {
        network: network("2001:db8::1"),
        times: 3,
        lasts: Duration::from_secs(240),
        let_in: 17,
        until: PersistentTime::after(Duration::from_secs(9)),
    };
    store.write(Record::Block(SavedBlock { times: 2, ..block.clone() }));
    store.write(Record::Block(block.clone()));
    let situation = Situation {
        noted: PersistentTime::now(),
        at: Duration::from_millis(1234),
        state: State::default(),
        protected: Vec::new(),
        services: vec![vec![80, 443]],
        state_since: Timestamp::now(),
        attack_since: Some(Timestamp::now()),
        attack: None,
    };
    store.write(Record::Situation(Box::new(situation.clone())));
    drop(store);
    let (_, saved) = Store::open(&path);
    assert_eq!((saved.entries, saved.blocks), (vec![kept], vec![block]));
    assert_eq!(saved.situation, Some(situation));
}

#[test]
fn what_is_not_understood_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tcpguard.sqlite");
    drop(Store::open(&path));
    let connection = Connection::open(&path).expect("a database");
    connection
        .execute_batch(
            "INSERT INTO list_entries VALUES ('grey', '198.18.0.1', NULL, NULL), ('deny', 'nobody', NULL, NULL),
                ('deny', '198.18.0.2', NULL, 'soon'), ('deny', '198.18.0.3', NULL, NULL);
            INSERT INTO blocks VALUES ('198.18.0.1', 1, 1000, 0, 'never', 1);
            INSERT INTO notes VALUES ('situation', '{}');",
        )
        .expect("written");
    let (_, saved) = Store::open(&path);
    let networks: Vec<String> = saved.entries.iter().map(|entry| entry.network.to_string()).collect();
    assert_eq!(networks, ["198.18.0.3"]);
    assert!(saved.blocks.is_empty() && saved.situation.is_none());
}

#[test]
fn blocks_are_bounded() {
    // In memory: a disk that other tests use takes longer for so many than the store waits.
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let path = folder.path().join("tcpguard.sqlite");
    let (store, _) = Store::open(&path);
    for n in 0..70_000u32 {
        let network = Network::of(std::net::Ipv4Addr::from(n).into());
        let lasts = Duration::from_secs(60);
        store.write(Record::Block(SavedBlock { network, times: 1, lasts, let_in: 0, until: PersistentTime::now() }));
        if n % 1000 == 0 {
            store.flush();
        }
    }
    drop(store);
    let (_, saved) = Store::open(&path);
    assert!((60_000..=65_536).contains(&saved.blocks.len()), "{}", saved.blocks.len());
    assert!(saved.blocks.iter().any(|block| block.network.to_string() == "0.1.17.111"));
}

#[test]
fn fuzz_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tcpguard.sqlite");
    let (store, _) = Store::open(&path);
    store.write(Record::Entry(SavedEntry {
        list: ListName::Deny,
        network: "198.18.0.0/24".parse().expect("a network"),
        reason: Some("why".to_owned()),
        until: None,
    }));
    drop(store);
    let seed = fs::read(&path).expect("a store");
    let seed = &seed[..seed.len().min(8000)];
    crate::fuzz::run(&[seed], |bytes| {
        for entry in fs::read_dir(folder.path()).expect("a folder").flatten() {
            fs::remove_file(entry.path()).expect("removed");
        }
        fs::write(&path, bytes).expect("written");
        // Whatever it contains, the daemon starts.
        let (store, _) = Store::open(&path);
        store.write(Record::NoEntry(ListName::Deny, "198.18.0.0/24".parse().expect("a network")));
    });
}
