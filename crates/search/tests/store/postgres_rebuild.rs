//! A store in PostgreSQL whose place is taken by the one beside it, and who may do what.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::made::{DIM, Random, entry, limit, model};
use crate::postgres::Place;
use bifocal_search::{Entry, ListOptions, ModelId, PgStore, Store, StoreError};

fn other() -> ModelId {
    ModelId {
        fingerprint: "fedcba9876543210".to_owned(),
        dim: 3,
        name: "other".to_owned(),
    }
}

fn batch(random: &mut Random, name: &str, count: usize) -> Vec<Entry> {
    (0..count)
        .map(|i| entry(&format!("{name}{i:03}"), &random.vector()))
        .collect()
}

#[test]
fn postgres_gives_the_store_beside_its_place() {
    let Some(place) = Place::new("swap") else { return };
    let old = place.writer();
    old.upsert(&batch(&mut Random(1), "k", 50)).unwrap();
    let generation = old.stats().unwrap().generation;
    let reader = PgStore::open_reader(&place.address(""), None).unwrap();
    assert!(matches!(reader.open_beside(&other()), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(old.replace_with_beside(), Err(StoreError::Missing { .. })));
    // One that was given up leaves nothing.
    let given_up = old.open_beside(&model()).unwrap();
    given_up.upsert(&batch(&mut Random(2), "given up", 3)).unwrap();
    drop(given_up);
    let new = old.open_beside(&other()).unwrap();
    assert_eq!((new.count().unwrap(), new.model()), (0, &other()));
    let mut kept = entry("k007", &[1.0, 2.0, 2.0]);
    kept.item.thumbnail = Some(vec![3; 500]);
    kept.item.metadata.insert("a".to_owned(), 1.into());
    new.upsert(&[kept.clone()]).unwrap();
    // Neither while it is written, nor by a reader; and it goes on where it was left.
    assert!(matches!(old.replace_with_beside(), Err(StoreError::Locked { .. })));
    assert!(matches!(reader.replace_with_beside(), Err(StoreError::ReadOnly { .. })));
    drop(new);
    let new = old.open_beside(&other()).unwrap();
    new.upsert(&[entry("new", &[1.0, 0.0, 0.0])]).unwrap();
    drop(new);
    assert_eq!(reader.search(&[1.0; DIM], &limit(99)).unwrap().hits.len(), 50);
    place.execute(&format!(
        "DROP ROLE IF EXISTS \"{0}\"; CREATE ROLE \"{0}\" LOGIN; GRANT USAGE ON SCHEMA \"{0}\" TO \"{0}\"; \
         GRANT SELECT ON ALL TABLES IN SCHEMA \"{0}\" TO \"{0}\"",
        place.name
    ));
    old.replace_with_beside().unwrap();
    assert!(matches!(old.replace_with_beside(), Err(StoreError::Missing { .. })));
    drop(old);
    // Who has the old model is told, and not given scores of another one.
    for result in [
        reader.search(&[1.0; DIM], &limit(1)).map(|_| ()),
        reader.get("k007").map(|_| ()),
        reader.entries(&ListOptions::default()).map(|_| ()),
    ] {
        assert!(matches!(result, Err(StoreError::ModelMismatch { .. })), "{result:?}");
    }
    // Who could read before still can.
    let guest = place.address("").replace("bifocal@", &format!("{}@", place.name));
    assert_ne!(guest, place.address(""));
    let guest = PgStore::open_reader(&guest, Some(&other())).unwrap();
    assert_eq!(guest.search(&[1.0, 0.0, 0.0], &limit(9)).unwrap().hits[0].key, "new");
    drop(guest);
    let store = PgStore::open_writer(&place.address(""), &other()).unwrap();
    assert!(store.stats().unwrap().generation > generation);
    assert_eq!(store.get("k007").unwrap().unwrap().item, kept.item);
    store.upsert(&[entry("more", &[0.0, 1.0, 0.0])]).unwrap();
    assert_eq!(store.delete(&["k007"]).unwrap(), 1);
    assert_eq!((store.count().unwrap(), store.thumbnail("k007").unwrap()), (2, None));
    place.execute(&format!("DROP OWNED BY \"{0}\"; DROP ROLE \"{0}\"", place.name));
}

/// Readers of the same model see the whole of the one store or of the other, all the time, with and without an index.
#[test]
fn postgres_readers_follow_while_stores_are_swapped() {
    for more in ["", "&exact=0"] {
        let Some(place) = Place::new("follow") else { return };
        let address = place.address(more);
        let old = PgStore::open_writer(&address, &model()).unwrap();
        let mut random = Random(7);
        old.upsert(&batch(&mut random, "a", 200)).unwrap();
        old.flush().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|reader| {
                    let (ended, address) = (&ended, &address);
                    scope.spawn(move || {
                        let store = PgStore::open_reader(address, Some(&model())).unwrap();
                        let (mut random, mut names) = (Random(100 + reader), std::collections::BTreeSet::new());
                        while !ended.load(Ordering::Relaxed) {
                            let found = store.search(&random.vector(), &limit(20)).unwrap();
                            assert_eq!((found.matched, found.hits.len()), (200, 20));
                            let first = found.hits[0].key.as_bytes()[0];
                            assert!(found.hits.iter().all(|h| h.key.as_bytes()[0] == first), "{found:?}");
                            names.insert(first);
                            let listed = store.list(&ListOptions::default()).unwrap();
                            assert_eq!(listed.len(), 100);
                            assert_eq!(store.files().unwrap().len(), 200);
                            assert_eq!(store.thumbnail("none").unwrap(), None);
                        }
                        names
                    })
                })
                .collect();
            for name in ["b", "c", "d", "e"] {
                let new = old.open_beside(&model()).unwrap();
                for chunk in batch(&mut random, name, 200).chunks(50) {
                    new.upsert(chunk).unwrap();
                }
                drop(new);
                old.replace_with_beside().unwrap();
            }
            ended.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap().len() > 1, "the readers saw no swap");
            }
        });
        assert!(old.files().unwrap().iter().all(|f| f.key.starts_with('e')));
        old.upsert(&batch(&mut random, "f", 1)).unwrap();
        assert_eq!(old.count().unwrap(), 201);
    }
}

#[test]
fn postgres_never_takes_a_schema_of_somebody_else_for_the_one_beside() {
    let Some(place) = Place::new("mine") else { return };
    let old = place.writer();
    let mut beside = Place::new("").unwrap();
    beside.name = format!("{}_rebuild", place.name);
    let theirs = PgStore::open_writer(&beside.address(""), &other()).unwrap();
    theirs.upsert(&[entry("theirs", &[1.0, 0.0, 0.0])]).unwrap();
    drop(theirs);
    for refused in [old.open_beside(&model()).map(drop), old.replace_with_beside()] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(&beside.name), "{error}");
    }
    let theirs = PgStore::open_reader(&beside.address(""), None).unwrap();
    assert_eq!(theirs.count().unwrap(), 1);
}

/// As docs/postgres.md says: an administrator makes extension and schema, the user owns no more than that.
#[test]
fn postgres_needs_no_right_to_make_schemas() {
    let Some(place) = Place::new("role") else { return };
    // Makes the extension, if nobody has.
    drop(Place::new("extension").unwrap().writer());
    place.execute(&format!(
        "CREATE ROLE \"{0}\" LOGIN; CREATE SCHEMA \"{0}\" AUTHORIZATION \"{0}\"",
        place.name
    ));
    let address = place.address("").replace("bifocal@", &format!("{}@", place.name));
    let store = PgStore::open_writer(&address, &model()).unwrap();
    store.upsert(&[entry("a", &[1.0; DIM])]).unwrap();
    let refused = store.open_beside(&other()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    assert_eq!(store.count().unwrap(), 1);
    drop(store);
    place.execute(&format!("DROP OWNED BY \"{0}\" CASCADE; DROP ROLE \"{0}\"", place.name));
}
