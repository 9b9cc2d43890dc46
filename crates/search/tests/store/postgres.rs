//! The store in PostgreSQL, on the server that `BIFOCAL_POSTGRES=postgres://…` names (`scripts/check-postgres.sh` starts one).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::contract::CASES;
use crate::made::{DIM, Random, entry, limit, model};
use bifocal_search::{Entry, Filter, ListOptions, LocalStore, ModelId, PgStore, SearchOptions, Store, StoreError};
use serde_json::json;

/// A store of a test's own, dropped with it.
pub struct Place {
    pub server: String,
    pub name: String,
}

impl Place {
    /// `None`: there is no server to test with.
    pub fn new(name: &str) -> Option<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Ok(server) = std::env::var("BIFOCAL_POSTGRES") else {
            println!("skipped: BIFOCAL_POSTGRES=postgres://… names no server (scripts/check-postgres.sh)");
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{count}_{name}", std::process::id());
        Some(Self { server, name })
    }

    pub fn address(&self, more: &str) -> String {
        let sign = if self.server.contains('?') { '&' } else { '?' };
        format!("{}{sign}store={}{more}", self.server, self.name)
    }

    pub fn writer(&self) -> PgStore {
        PgStore::open_writer(&self.address(""), &model()).unwrap()
    }

    /// Statements past the store; `@` is its schema.
    pub fn execute(&self, statements: &str) {
        let mut client = postgres::Client::connect(&self.server, postgres::NoTls).unwrap();
        let statements = statements.replace('@', &format!("\"{}\".", self.name));
        client.batch_execute(&statements).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.execute(&format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.name));
    }
}

#[test]
fn the_postgres_store_keeps_the_contract() {
    for (name, case) in CASES {
        let Some(place) = Place::new("contract") else { return };
        println!("{name}");
        case(&|| -> Box<dyn Store> { Box::new(place.writer()) });
    }
}

/// With an index from the first vector on, that is asked for every result that is not a large part of the collection.
#[test]
fn the_postgres_store_keeps_the_contract_with_an_index() {
    for (name, case) in CASES {
        let Some(place) = Place::new("hnsw") else { return };
        println!("{name}");
        let open = || -> Box<dyn Store> {
            let store = PgStore::open_writer(&place.address("&exact=0"), &model()).unwrap();
            if store.stats().unwrap().generation == 0 {
                store.upsert(&[entry("first", &[1.0; DIM])]).unwrap();
                store.flush().unwrap();
                store.delete(&["first"]).unwrap();
            }
            Box::new(store)
        };
        case(&open);
    }
}

#[test]
fn postgres_searches_by_the_index_and_finds_what_is_there() {
    let Some(place) = Place::new("index") else { return };
    let address = place.address("&exact=100");
    let store = PgStore::open_writer(&address, &model()).unwrap();
    let mut random = Random(31);
    let entries: Vec<Entry> = (0..5000)
        .map(|i| {
            let mut entry = entry(&format!("{i:05}"), &random.vector());
            entry.item.metadata.insert("n".to_owned(), i.into());
            entry
        })
        .collect();
    entries.chunks(1000).for_each(|c| store.upsert(c).unwrap());
    let queries: Vec<Vec<f32>> = (0..40).map(|_| random.vector()).collect();
    let search = |filter: Option<&str>| -> Vec<Vec<String>> {
        let options = SearchOptions {
            filter: filter.map(|f| f.parse().unwrap()),
            ..limit(10)
        };
        let found = queries.iter().map(|q| store.search(q, &options).unwrap());
        found
            .map(|f| {
                assert_eq!(f.hits.len(), f.matched.min(10) as usize);
                f.hits.into_iter().map(|h| h.key).collect()
            })
            .collect()
    };
    let filters = [None, Some("n < 2500"), Some("n < 500"), Some("n < 50"), Some("n < 5")];
    let exact: Vec<_> = filters.iter().map(|f| search(*f)).collect();
    assert!(store.search(&queries[0], &limit(1)).unwrap().scores.is_none());
    store.flush().unwrap();
    place.execute(
        "DO $$ BEGIN IF to_regclass('@vectors_hnsw') IS NULL THEN RAISE EXCEPTION 'no index was built'; END IF; END $$",
    );
    for (filter, exact) in filters.iter().zip(exact) {
        let found = search(*filter);
        let same: usize = found
            .iter()
            .zip(&exact)
            .map(|(f, e)| f.iter().filter(|k| e.contains(k)).count())
            .sum();
        let all: usize = exact.iter().map(Vec::len).sum();
        let recall = same as f64 / all as f64;
        println!("recall@10 with {filter:?}: {recall}");
        assert!(recall >= 0.98, "{filter:?}: {recall}");
    }
}

#[test]
fn postgres_scores_are_those_of_the_local_store() {
    let Some(place) = Place::new("scores") else { return };
    let dir = tempfile::tempdir().unwrap();
    let local = LocalStore::open_writer(dir.path(), &model()).unwrap();
    let far = place.writer();
    let mut random = Random(77);
    let entries: Vec<Entry> = (0..800)
        .map(|i| {
            let mut entry = entry(&format!("{}/{i}", i % 7), &random.vector());
            if i % 4 == 0 {
                entry.vectors.push(random.vector());
            }
            // Some are equal: then the order of storing decides.
            if i % 10 == 9 {
                entry.vectors = vec![vec![1.0; DIM]];
            }
            entry
        })
        .collect();
    for store in [&local as &dyn Store, &far] {
        entries.chunks(130).for_each(|chunk| store.upsert(chunk).unwrap());
    }
    for round in 0..20 {
        let query = if round == 0 { vec![1.0; DIM] } else { random.vector() };
        for filter in [None, Some("size < 5"), Some("path ~ '3/*'")] {
            let options = SearchOptions {
                filter: filter.map(|f| f.parse().unwrap()),
                without: vec!["3/3".to_owned()],
                ..limit(25)
            };
            let (ours, theirs) = (
                local.search(&query, &options).unwrap(),
                far.search(&query, &options).unwrap(),
            );
            assert_eq!((ours.hits, ours.matched), (theirs.hits, theirs.matched), "{filter:?}");
            let (ours, theirs) = (ours.scores.unwrap(), theirs.scores.unwrap());
            assert_eq!(ours.count, theirs.count);
            assert!((ours.mean - theirs.mean).abs() < 1e-4 && (ours.deviation - theirs.deviation).abs() < 1e-4);
        }
    }
    let all = ListOptions {
        limit: usize::MAX,
        ..ListOptions::default()
    };
    assert_eq!(local.entries(&all).unwrap(), far.entries(&all).unwrap());
}

/// Items that are hard to tell apart, and filters that ask for it.
#[test]
fn postgres_understands_filters_as_the_local_store_does() {
    const FILTERS: &[&str] = &[
        "path = 'a/b.jpg'",
        "path < 'b'",
        "path >= 'é'",
        "path > 7",
        "name = 'b.jpg'",
        "name <= 'b.jpg'",
        "name = ''",
        "ext = jpg",
        "ext = k",
        "ext = 'é'",
        "ext != jpg",
        "ext in (jpg, k, 7)",
        "ext = ''",
        "exists ext",
        "not exists ext",
        "ext < k",
        "size = 5",
        "size > 4.5",
        "size <= 1e300",
        "size = 9007199254740993",
        "size >= 9007199254740992.0",
        "date = 1970",
        "date < 1970",
        "date <= 1970-01-01",
        "date > 1969-12-31",
        "date >= 9999",
        "date < 9999",
        "date != 2024-05-17",
        "n = 1",
        "n = 1.0",
        "n < 2",
        "n >= 0.1",
        "n = 'x'",
        "n = true",
        "n != 1",
        "n in (1, 'x', true)",
        "n > 9007199254740992",
        "n = 9007199254740993",
        "n like 'X%'",
        "n < 'y'",
        "exists n",
        "not exists n",
        "exists n.m",
        "n.m = 2",
        "n.m.k = 3",
        "n.`we \"ird\\` = 4",
        "n = \"it's\"",
        "n = 1 or path ~ '*.jpg'",
        "not (n = 1 or size > 4)",
        "n = 1 and path like '%A%'",
        "`a.b` = 5",
        "n like '_' and size < 9",
    ];
    let Some(place) = Place::new("filters") else { return };
    let values = [
        json!(1),
        json!(1.0),
        json!(0.1),
        json!(-3),
        json!(1e300),
        json!(u64::MAX),
        json!(9_007_199_254_740_993_i64),
        json!("x"),
        json!("it's"),
        json!(true),
        json!(null),
        json!([]),
        json!({}),
        json!([null]),
        json!([1, "x", {"m": 2}]),
        json!({"m": [{"k": 3}, 2]}),
        json!({"m": null}),
        json!({"we \"ird\\": 4}),
        json!({"deep": {"deeper": [1]}}),
    ];
    let paths = [
        "a/b.jpg",
        "b.JPG",
        "é/x.É",
        "x.\u{212a}",
        ".hidden",
        "a/.x",
        "a.b/c",
        "folder/",
        "line\nbreak.jpg",
        "x.tar.jpg",
        "A",
        "x.",
    ];
    let mut entries = Vec::new();
    let mut random = Random(4);
    for i in 0..values.len() * paths.len() {
        let path = paths[i % paths.len()];
        let mut entry = entry(&format!("{}{path}", ["", "a/", "Z/"][i % 3]), &random.vector());
        entry.item.file.key.insert_str(0, &"z/".repeat(i / paths.len()));
        entry.item.file.size = [0, 5, 4, 1 << 53, (1 << 53) + 1, i64::MAX as u64][i % 6];
        entry.item.file.modified_ns = [0, -1, i64::MIN, i64::MAX, 1_715_904_000_000_000_000][i % 5];
        entry
            .item
            .metadata
            .insert("n".to_owned(), values[i / paths.len()].clone());
        if i % 4 == 0 {
            entry.item.metadata.insert("a.b".to_owned(), json!(5));
        }
        entries.push(entry);
    }
    let store = place.writer();
    store.upsert(&entries).unwrap();
    let check = |entries: &[Entry]| {
        for text in FILTERS {
            let filter: Filter = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            let mut expected: Vec<&str> = entries
                .iter()
                .filter(|e| filter.matches(&e.item.file, &e.item.metadata))
                .map(|e| e.item.file.key.as_str())
                .collect();
            expected.sort_unstable();
            let options = ListOptions {
                filter: Some(filter.clone()),
                limit: usize::MAX,
                after: None,
            };
            let found: Vec<String> = store.list(&options).unwrap().into_iter().map(|i| i.file.key).collect();
            assert_eq!(found, expected, "{text}");
            let options = SearchOptions {
                filter: Some(filter),
                ..limit(3)
            };
            let found = store.search(&[1.0; DIM], &options).unwrap();
            assert_eq!(
                (found.matched as usize, found.hits.len()),
                (expected.len(), expected.len().min(3)),
                "{text}"
            );
        }
    };
    check(&entries);
    // What PostgreSQL's JSON cannot hold, or finds in another way.
    for (i, value) in [json!("x\0y"), json!([[{"m": 2}], [1]])].into_iter().enumerate() {
        let mut odd = entry(&format!("odd {i}"), &[1.0; DIM]);
        odd.item.metadata.insert("n".to_owned(), value);
        store.upsert(std::slice::from_ref(&odd)).unwrap();
        assert_eq!(store.get(&odd.item.file.key).unwrap().unwrap().item, odd.item);
        entries.push(odd);
    }
    check(&entries);
}

#[test]
fn postgres_has_one_writer_and_many_readers() {
    let Some(place) = Place::new("lock") else { return };
    assert!(matches!(
        PgStore::open_reader(&place.address(""), None),
        Err(StoreError::Missing { .. })
    ));
    let first = place.writer();
    let error = PgStore::open_writer(&place.address(""), &model()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let holder = format!("bifocal process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    let reader = PgStore::open_reader(&place.address(""), Some(&model())).unwrap();
    first.upsert(&[entry("a", &[1.0; DIM])]).unwrap();
    assert_eq!(reader.count().unwrap(), 1);
    for refused in [
        reader.upsert(&[entry("b", &[1.0; DIM])]),
        reader.delete(&["a"]).map(drop),
        reader.annotate(&[]).map(drop),
        reader.flush(),
    ] {
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })));
    }
    // Another store of the same database has a lock of its own.
    let beside = Place::new("beside").unwrap();
    beside.writer().upsert(&[entry("c", &[1.0; DIM])]).unwrap();
    drop(first);
    place.writer().delete(&["a"]).unwrap();
    assert_eq!(reader.count().unwrap(), 0);
}

#[test]
fn postgres_refuses_other_models_and_what_is_no_store() {
    let Some(place) = Place::new("model") else { return };
    drop(place.writer());
    let other = ModelId {
        fingerprint: "fedcba9876543210".to_owned(),
        dim: 12,
        name: "other".to_owned(),
    };
    for error in [
        PgStore::open_writer(&place.address(""), &other).unwrap_err(),
        PgStore::open_reader(&place.address(""), Some(&other)).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::ModelMismatch { .. }), "{error}");
    }
    let store = place.writer();
    assert_eq!(store.model(), &model());
    // Somebody has put another one in its place.
    place.execute("UPDATE @state SET fingerprint = 'x'");
    let search = store.search(&[1.0; DIM], &limit(1)).unwrap_err();
    assert!(matches!(search, StoreError::ModelMismatch { .. }), "{search}");
    let upsert = store.upsert(&[entry("a", &[1.0; DIM])]).unwrap_err();
    assert!(matches!(upsert, StoreError::ModelMismatch { .. }), "{upsert}");
    place.execute("UPDATE @state SET fingerprint = '0123456789abcdef'; INSERT INTO @versions VALUES (99)");
    assert!(matches!(
        PgStore::open_reader(&place.address(""), None),
        Err(StoreError::NewerFormat { found: 99, .. })
    ));
    place.execute("DROP TABLE @versions");
    drop(store);
    assert!(matches!(
        PgStore::open_writer(&place.address(""), &model()),
        Err(StoreError::Foreign { .. })
    ));
    let wide = ModelId { dim: 16_001, ..model() };
    let place = Place::new("wide").unwrap();
    let error = PgStore::open_writer(&place.address(""), &wide).unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
}

#[test]
fn postgres_connections_that_break_are_made_again() {
    let Some(place) = Place::new("broken") else { return };
    let name = format!("&application_name={}", place.name);
    let store = PgStore::open_writer(&place.address(&name), &model()).unwrap();
    store.upsert(&[entry("a", &[1.0; DIM])]).unwrap();
    let cut = || {
        place.execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            place.name
        ));
    };
    for _ in 0..3 {
        cut();
        assert_eq!(store.count().unwrap(), 1);
        cut();
        assert_eq!(store.search(&[1.0; DIM], &limit(5)).unwrap().hits.len(), 1);
        cut();
        // The lock went with the connection, and is taken again.
        store.upsert(&[entry("a", &[1.0; DIM])]).unwrap();
        let second = PgStore::open_writer(&place.address(""), &model());
        assert!(matches!(second, Err(StoreError::Locked { .. })));
    }
    // Who takes the lock meanwhile keeps it.
    cut();
    let second = place.writer();
    let refused = store.upsert(&[entry("b", &[1.0; DIM])]).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    drop(second);
    store.upsert(&[entry("b", &[1.0; DIM])]).unwrap();
}

#[test]
fn postgres_servers_that_are_not_there_are_told_without_the_password() {
    let address = "postgres://me:secret@127.0.0.1:1/db?connect_timeout=2";
    let error = PgStore::open_reader(address, None).unwrap_err();
    assert!(matches!(error, StoreError::Connection { .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("postgres://me@127.0.0.1:1/db") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn postgres_checks_certificates_as_it_is_told() {
    let (Ok(tls), Some(place)) = (std::env::var("BIFOCAL_POSTGRES_TLS"), Place::new("tls")) else {
        println!("skipped: BIFOCAL_POSTGRES_TLS names no server (scripts/check-postgres.sh)");
        return;
    };
    let bare = tls.split('?').next().unwrap().to_owned();
    let open = |address: &str, host: &str, mode: &str| {
        let sign = if address.contains('?') { '&' } else { '?' };
        let address = format!(
            "{}{sign}store={}&sslmode={mode}",
            address.replace("HOST", host),
            place.name
        );
        PgStore::open_writer(&address, &model())
            .map(drop)
            .map_err(|e| e.to_string())
    };
    // The certificate is of localhost, and signed by itself.
    for (address, host, mode) in [
        (&bare, "localhost", "prefer"),
        (&bare, "127.0.0.1", "require"),
        (&tls, "localhost", "verify-full"),
        (&tls, "127.0.0.1", "verify-ca"),
        (&tls, "127.0.0.1", "require"),
    ] {
        assert_eq!(open(address, host, mode), Ok(()), "{host} {mode}");
    }
    for (address, host, mode, why) in [
        (&tls, "127.0.0.1", "verify-full", "not valid for name"),
        (&bare, "localhost", "verify-full", "certificate"),
        (&bare, "localhost", "verify-ca", "certificate"),
        (&bare, "localhost", "disable", "connection"),
        (&place.server, "", "require", "does not support TLS"),
        (&place.server, "", "verify-full", "does not support TLS"),
    ] {
        let error = open(address, host, mode).unwrap_err();
        assert!(error.contains(why), "{host} {mode}: {error}");
    }
    assert_eq!(open(&place.server, "", "prefer"), Ok(()));
    let no_file = format!("{bare}?sslrootcert=/none.pem");
    assert!(
        open(&no_file, "localhost", "verify-full")
            .unwrap_err()
            .contains("/none.pem")
    );
}

/// The server is killed and started again while one thread writes and another one reads.
#[test]
fn acknowledged_calls_survive_a_killed_server() {
    let (Ok(restart), Some(place)) = (std::env::var("BIFOCAL_POSTGRES_RESTART"), Place::new("killed")) else {
        println!(
            "skipped: BIFOCAL_POSTGRES_RESTART names no program that kills the server (scripts/check-postgres.sh)"
        );
        return;
    };
    const KILLS: usize = 5;
    let store = place.writer();
    let reader = PgStore::open_reader(&place.address(""), Some(&model())).unwrap();
    let ended = AtomicBool::new(false);
    let (acknowledged, failed) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_until(&store, &ended));
        let reading = scope.spawn(|| {
            let (mut reads, mut failed) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                match reader.search(&[1.0; DIM], &limit(20)) {
                    // Each call stores ten items or none.
                    Ok(found) => assert_eq!(found.matched % 10, 0),
                    Err(StoreError::Connection { .. }) => failed += 1,
                    Err(e) => panic!("{e}"),
                }
                reads += 1;
            }
            (reads, failed)
        });
        for kill in 0..KILLS as u64 {
            std::thread::sleep(std::time::Duration::from_millis(300 + 170 * kill));
            let status = std::process::Command::new(Path::new(&restart)).status().unwrap();
            assert!(status.success(), "{restart} failed");
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
        ended.store(true, Ordering::Relaxed);
        let (reads, missed) = reading.join().unwrap();
        println!("{reads} reads, {missed} of which failed");
        assert!(reads > missed);
        writing.join().unwrap()
    });
    let sure: usize = acknowledged.values().filter(|is_sure| **is_sure).count();
    println!("{sure} calls acknowledged, {failed} failed, {KILLS} kills");
    assert!(sure > KILLS && failed >= 1, "the kills fell into no call");
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for file in store.files().unwrap() {
        let call = file.key.split('-').next().unwrap().parse().unwrap();
        *found.entry(call).or_default() += 1;
    }
    for (call, is_sure) in &acknowledged {
        let count = found.get(call).copied().unwrap_or(0);
        assert!(
            count == 10 || !is_sure && count == 0,
            "call {call}: {count} items, acknowledged: {is_sure}"
        );
    }
    assert!(found.keys().all(|call| acknowledged.contains_key(call)), "a phantom");
    let stats = store.stats().unwrap();
    assert_eq!(
        (stats.items, stats.generation),
        (found.values().sum(), found.len() as u64)
    );
}

/// Stores ten items a call; which calls were tried, and whether they were acknowledged, and how many failed.
fn write_until(store: &PgStore, ended: &AtomicBool) -> (BTreeMap<u64, bool>, usize) {
    let (mut calls, mut failed) = (BTreeMap::new(), 0);
    let mut random = Random(6);
    for call in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let batch: Vec<Entry> = (0..10)
            .map(|i| entry(&format!("{call}-{i}"), &random.vector()))
            .collect();
        let result = store.upsert(&batch);
        match &result {
            Ok(()) => {}
            Err(StoreError::Connection { .. }) => failed += 1,
            Err(e) => panic!("{e}"),
        }
        calls.insert(call, result.is_ok());
    }
    (calls, failed)
}
