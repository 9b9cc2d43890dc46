//! The local store: the contract, its lock, its model, several processes' views, damage, and growth.

use std::path::Path;

use crate::made::{DIM, Random, entry, limit, model};
use bifocal_search::{LocalStore, ModelId, SearchOptions, Store, StoreError};

fn writer(dir: &Path) -> LocalStore {
    LocalStore::open_writer(dir, &model()).unwrap()
}

#[test]
fn the_local_store_keeps_the_contract() {
    for (name, case) in crate::contract::CASES {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        let open = || -> Box<dyn Store> { Box::new(writer(dir.path())) };
        case(&open);
    }
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = writer(dir.path());
    let error = LocalStore::open_writer(dir.path(), &model()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains("this process"), "{error}");
    let reader = LocalStore::open_reader(dir.path(), None).unwrap();
    first.upsert(&[entry("a", &[1.0; DIM])]).unwrap();
    assert_eq!(reader.count().unwrap(), 1);
    assert!(matches!(
        reader.upsert(&[entry("b", &[1.0; DIM])]),
        Err(StoreError::ReadOnly { .. })
    ));
    assert!(matches!(reader.delete(&["a"]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.annotate(&[]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.flush(), Err(StoreError::ReadOnly { .. })));
    drop(first);
    writer(dir.path()).upsert(&[entry("c", &[1.0; DIM])]).unwrap();
    assert_eq!(reader.count().unwrap(), 2);
}

#[test]
fn another_model_is_refused_and_the_message_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    drop(writer(dir.path()));
    let other = ModelId {
        fingerprint: "fedcba9876543210".to_owned(),
        dim: 12,
        name: "other".to_owned(),
    };
    for error in [
        LocalStore::open_writer(dir.path(), &other).unwrap_err(),
        LocalStore::open_reader(dir.path(), Some(&other)).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::ModelMismatch { .. }));
        let text = error.to_string();
        for part in [
            "test model",
            "0123456789ab",
            "8 dimensions",
            "other",
            "fedcba987654",
            "12 dimensions",
            "bifocal index --rebuild --model",
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
    // The name is not compared, the width is.
    let renamed = ModelId {
        name: "renamed".to_owned(),
        ..model()
    };
    assert_eq!(
        LocalStore::open_reader(dir.path(), Some(&renamed))
            .unwrap()
            .model()
            .name,
        "test model"
    );
    let wider = ModelId { dim: 9, ..model() };
    assert!(matches!(
        LocalStore::open_reader(dir.path(), Some(&wider)),
        Err(StoreError::ModelMismatch { .. })
    ));
    // And a refused writer holds no lock.
    drop(writer(dir.path()));
}

#[test]
fn a_reader_follows_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let reader = LocalStore::open_reader(dir.path(), Some(&model())).unwrap();
    let mut random = Random(1);
    let all = limit(10_000);
    let found = |store: &LocalStore| {
        let mut keys: Vec<String> = store
            .search(&[1.0; DIM], &all)
            .unwrap()
            .hits
            .into_iter()
            .map(|h| h.key)
            .collect();
        keys.sort();
        keys
    };
    // More removals than are remembered lie between the looks at steps 9 and 19.
    for step in 0..20 {
        let calls = if step == 15 { 300 } else { 3 };
        for _ in 0..calls {
            let batch: Vec<_> = (0..2)
                .map(|_| entry(&format!("k{}", random.below(50)), &random.vector()))
                .collect();
            writer.upsert(&batch).unwrap();
            writer.delete(&[&format!("k{}", random.below(50))]).unwrap();
        }
        let expected: Vec<String> = writer.files().unwrap().into_iter().map(|f| f.key).collect();
        assert_eq!(found(&writer), expected, "step {step}");
        if !(10..=18).contains(&step) {
            assert_eq!(found(&reader), expected, "step {step}");
        }
    }
    assert!(reader.stats().unwrap().memory_bytes > 0);
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = LocalStore::open_reader(&dir.path().join("none"), None).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }));
    assert!(!dir.path().join("none").exists(), "a reader creates nothing");

    let file = dir.path().join("store.db");
    std::fs::write(
        &file,
        b"this is not a database, and long enough to be looked at as one. ".repeat(20),
    )
    .unwrap();
    assert!(matches!(
        LocalStore::open_reader(dir.path(), None),
        Err(StoreError::Corrupt { .. })
    ));
    assert!(matches!(
        LocalStore::open_writer(dir.path(), &model()),
        Err(StoreError::Corrupt { .. })
    ));

    // A database of something else is not touched.
    std::fs::remove_file(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(other);
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(
        LocalStore::open_writer(dir.path(), &model()),
        Err(StoreError::Foreign { .. })
    ));
    assert_eq!(std::fs::read(&file).unwrap(), before);

    // An empty file is what a process leaves that was killed while it created the store.
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(
        LocalStore::open_reader(dir.path(), None),
        Err(StoreError::Missing { .. })
    ));
    writer(dir.path()).verify().unwrap();
}

#[test]
fn a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(writer(dir.path()));
    let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let error = LocalStore::open_reader(dir.path(), None).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 99, .. }), "{error}");
}

#[test]
fn damaged_content_is_an_error_and_never_a_result() {
    let damage = |sql: &str| {
        let dir = tempfile::tempdir().unwrap();
        writer(dir.path())
            .upsert(&[entry("a", &[1.0; DIM]), entry("b", &[2.0; DIM])])
            .unwrap();
        let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        file.pragma_update(None, "foreign_keys", false).unwrap();
        file.execute_batch(sql).unwrap();
        drop(file);
        dir
    };
    let search = |dir: &tempfile::TempDir| {
        let store = LocalStore::open_reader(dir.path(), None)?;
        store
            .search(&[1.0; DIM], &SearchOptions::default())
            .map(|found| found.hits)
    };
    let assert_corrupt = |result: Result<(), StoreError>, sql: &str| {
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{sql}: {result:?}");
    };
    for sql in [
        "UPDATE vectors SET f16 = x'00' WHERE id = 1",
        "UPDATE vectors SET f16 = x'007c007c007c007c007c007c007c007c' WHERE id = 1",
        "UPDATE items SET metadata = '[' WHERE id = 1",
        "DELETE FROM items WHERE id = 1",
        "DELETE FROM meta WHERE key = 'generation'",
        "UPDATE meta SET value = 'many' WHERE key = 'generation'",
        "DELETE FROM meta WHERE key = 'model.dim'",
        "UPDATE meta SET value = -1 WHERE key = 'model.dim'",
        "UPDATE meta SET value = 123456789012 WHERE key = 'model.dim'",
    ] {
        assert_corrupt(search(&damage(sql)).map(|_| ()), sql);
    }
    for sql in [
        "UPDATE items SET hash = x'00' WHERE id = 1",
        "UPDATE items SET size = -1 WHERE id = 1",
    ] {
        let dir = damage(sql);
        assert_corrupt(
            LocalStore::open_reader(dir.path(), None).unwrap().files().map(|_| ()),
            sql,
        );
    }
    for sql in [
        "DELETE FROM vectors WHERE id = 1",
        "DELETE FROM items WHERE id = 1",
        "UPDATE vectors SET f16 = x'00' WHERE id = 1",
    ] {
        let dir = damage(sql);
        assert_corrupt(LocalStore::open_reader(dir.path(), None).unwrap().verify(), sql);
    }
    // A reader recovers when the damage is gone.
    let dir = damage("UPDATE vectors SET f16 = x'00' WHERE id = 1");
    let reader = LocalStore::open_reader(dir.path(), None).unwrap();
    assert!(reader.search(&[1.0; DIM], &SearchOptions::default()).is_err());
    writer(dir.path()).upsert(&[entry("a", &[1.0; DIM])]).unwrap();
    assert_eq!(
        reader
            .search(&[1.0; DIM], &SearchOptions::default())
            .unwrap()
            .hits
            .len(),
        2
    );
}

#[test]
fn every_flipped_byte_gives_an_error_or_a_sound_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = writer(dir.path());
    let mut random = Random(2);
    store
        .upsert(
            &(0..60)
                .map(|i| entry(&format!("k{i}"), &random.vector()))
                .collect::<Vec<_>>(),
        )
        .unwrap();
    store.flush().unwrap();
    drop(store);
    let sound = std::fs::read(dir.path().join("store.db")).unwrap();
    let mut refused = 0;
    for _ in 0..250 {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = sound.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(dir.path().join("store.db"), bytes).unwrap();
        let Ok(store) = LocalStore::open_reader(dir.path(), None) else {
            refused += 1;
            continue;
        };
        let results = [
            store.search(&[1.0; DIM], &SearchOptions::default()).is_err(),
            store.files().is_err(),
            store.get("k7").is_err(),
            store.verify().is_err(),
        ];
        refused += usize::from(results.contains(&true));
    }
    assert!(refused > 0, "no damage was noticed");
}

#[test]
fn the_file_does_not_grow_with_the_number_of_calls() {
    let dir = tempfile::tempdir().unwrap();
    let store = writer(dir.path());
    let mut random = Random(4);
    let keys = 100;
    let fill = |random: &mut Random| {
        let mut entries: Vec<_> = (0..keys).map(|i| entry(&format!("k{i}"), &random.vector())).collect();
        entries.iter_mut().for_each(|e| e.item.thumbnail = Some(vec![7; 4000]));
        entries
    };
    store.upsert(&fill(&mut random)).unwrap();
    store.flush().unwrap();
    let live = store.stats().unwrap().disk_bytes;
    // Ten thousand single calls.
    for round in 0..50 {
        for entry in fill(&mut random) {
            if random.below(4) == 0 {
                store.delete(&[&entry.item.file.key]).unwrap();
            }
            store.upsert(&[entry]).unwrap();
        }
        for _ in 0..75 {
            store.delete(&[&format!("k{}", random.below(keys))]).unwrap();
        }
        // No manual action: neither flush nor closing.
        let now = store.stats().unwrap().disk_bytes;
        // The write-ahead log is merged each time that it has 1000 pages of 4 KiB.
        let log = 5 << 20;
        assert!(
            now <= 3 * live + log,
            "round {round}: {now} bytes for {live} of content"
        );
    }
    store
        .delete(
            &(0..keys - 1)
                .map(|i| format!("k{i}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
        .unwrap();
    store.flush().unwrap();
    let small = store.stats().unwrap().disk_bytes;
    assert!(
        small < live / 4,
        "{small} bytes for one item of {keys}, which had {live}"
    );
}
