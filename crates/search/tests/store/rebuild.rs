//! A store that is replaced by another one, stores of older formats, and near duplicates.

use std::path::Path;

use crate::made::{DIM, Random, entry, limit, model};
use bifocal_search::duplicates::duplicates;
use bifocal_search::{ListOptions, LocalStore, ModelId, Store, StoreError};

fn other() -> ModelId {
    ModelId {
        fingerprint: "fedcba9876543210".to_owned(),
        dim: 3,
        name: "other".to_owned(),
    }
}

#[test]
fn another_stores_content_takes_the_place_of_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (place, beside) = (dir.path().join("s"), dir.path().join("s/rebuild"));
    let old = LocalStore::open_writer(&place, &model()).unwrap();
    let mut random = Random(1);
    let entries: Vec<_> = (0..50).map(|i| entry(&format!("k{i:02}"), &random.vector())).collect();
    old.upsert(&entries).unwrap();
    let reader = LocalStore::open_reader(&place, None).unwrap();
    assert_eq!(reader.search(&[1.0; DIM], &limit(99)).unwrap().hits.len(), 50);
    let new = LocalStore::open_writer(&beside, &other()).unwrap();
    let mut kept = entry("k07", &[1.0, 2.0, 2.0]);
    kept.item.thumbnail = Some(vec![3; 500]);
    kept.item.metadata.insert("a".to_owned(), 1.into());
    new.upsert(&[kept.clone(), entry("new", &[1.0, 0.0, 0.0])]).unwrap();
    // Neither while it is written, nor by a reader.
    assert!(matches!(old.replace_with(&beside), Err(StoreError::Locked { .. })));
    drop(new);
    assert!(matches!(reader.replace_with(&beside), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(
        old.replace_with(&dir.path().join("none")),
        Err(StoreError::Missing { .. })
    ));
    assert_eq!(reader.count().unwrap(), 50);
    old.replace_with(&beside).unwrap();
    drop(old);
    // Who has the old model is told, and not given scores of another one.
    for result in [
        reader.search(&[1.0; DIM], &limit(1)).map(|_| ()),
        reader.get("k07").map(|_| ()),
        reader.entries(&ListOptions::default()).map(|_| ()),
    ] {
        assert!(matches!(result, Err(StoreError::ModelMismatch { .. })), "{result:?}");
    }
    let store = LocalStore::open_writer(&place, &other()).unwrap();
    store.verify().unwrap();
    assert_eq!(store.get("k07").unwrap().unwrap().item, kept.item);
    assert_eq!(store.search(&[1.0, 0.0, 0.0], &limit(9)).unwrap().hits[0].key, "new");
    store.upsert(&[entry("more", &[0.0, 1.0, 0.0])]).unwrap();
    assert_eq!(store.count().unwrap(), 3);
}

#[test]
fn a_reader_of_the_same_model_follows() {
    let dir = tempfile::tempdir().unwrap();
    let beside = dir.path().join("rebuild");
    let old = LocalStore::open_writer(dir.path(), &model()).unwrap();
    let mut random = Random(2);
    let batch = |random: &mut Random, name: &str| -> Vec<_> {
        (0..20)
            .map(|i| entry(&format!("{name}{i}"), &random.vector()))
            .collect()
    };
    old.upsert(&batch(&mut random, "a")).unwrap();
    let reader = LocalStore::open_reader(dir.path(), None).unwrap();
    let keys = |store: &LocalStore| {
        let hits = store.search(&[1.0; DIM], &limit(99)).unwrap().hits;
        let mut keys: Vec<String> = hits.into_iter().map(|h| h.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&reader).len(), 20);
    let new = LocalStore::open_writer(&beside, &model()).unwrap();
    new.upsert(&batch(&mut random, "b")).unwrap();
    drop(new);
    old.replace_with(&beside).unwrap();
    for store in [&reader, &old] {
        let found = keys(store);
        assert!(
            found.len() == 20 && found.iter().all(|k| k.starts_with('b')),
            "{found:?}"
        );
    }
    old.delete(&["b3"]).unwrap();
    assert_eq!(keys(&reader).len(), 19);
}

/// `format-1.db` was written by the version before formats were counted up, for three pictures.
#[test]
fn a_store_of_the_first_format_is_read_and_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.db");
    std::fs::copy(&fixture, dir.path().join("store.db")).unwrap();
    let format = || -> i64 {
        let file = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    let reader = LocalStore::open_reader(dir.path(), None).unwrap();
    reader.verify().unwrap();
    let id = reader.model().clone();
    let entries = reader.entries(&ListOptions::default()).unwrap();
    assert_eq!((entries.len(), format()), (3, 1));
    assert_eq!(reader.failures().unwrap(), []);
    let hits = reader.search(&entries[1].vectors[0], &limit(3)).unwrap().hits;
    assert!(hits.len() == 3 && hits[0].key == entries[1].item.file.key && hits[0].score > 0.999);
    let writer = LocalStore::open_writer(dir.path(), &id).unwrap();
    assert_eq!(writer.entries(&ListOptions::default()).unwrap(), entries);
    let mut two = entries[0].clone();
    two.vectors = vec![two.vectors[0].clone(); 2];
    writer.upsert(&[two]).unwrap();
    writer.verify().unwrap();
    assert_eq!((reader.count().unwrap(), format()), (3, 3));
    assert_eq!(writer.failures().unwrap(), []);
}

#[test]
fn duplicates_are_those_that_comparing_all_pairs_finds() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open_writer(dir.path(), &model()).unwrap();
    let mut random = Random(3);
    // More than two blocks of them, and chains: each third item is close to the one before.
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    for i in 0..1300usize {
        let vector = match vectors.last() {
            Some(last) if i % 3 == 2 || i % 100 < 4 => {
                last.iter().zip(random.vector()).map(|(a, b)| a + 0.1 * b).collect()
            }
            _ => random.vector(),
        };
        vectors.push(vector);
    }
    let entries: Vec<_> = vectors
        .iter()
        .enumerate()
        .map(|(i, v)| entry(&format!("{:04}", i * 7 % 1300), v))
        .collect();
    store.upsert(&entries).unwrap();
    for (least, filter) in [
        (0.99f32, None),
        (0.97, None),
        (0.99, Some("path < '0600'".parse().unwrap())),
    ] {
        let page = ListOptions {
            limit: usize::MAX,
            filter: filter.clone(),
            ..ListOptions::default()
        };
        let entries = store.entries(&page).unwrap();
        // By hand: follow links from each item that was not reached yet.
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let row = |at: usize| &entries[at].vectors[0][..];
        let linked = |a: usize, b: usize| {
            let cosine = dot(row(a), row(b)) / (dot(row(a), row(a)) * dot(row(b), row(b))).sqrt();
            // Otherwise rounding would decide.
            assert!((cosine - f64::from(least)).abs() > 1e-6, "another threshold is needed");
            cosine >= f64::from(least)
        };
        let mut group_of: Vec<Option<usize>> = vec![None; entries.len()];
        let mut groups: Vec<Vec<String>> = Vec::new();
        for first in 0..entries.len() {
            if group_of[first].is_some() {
                continue;
            }
            let (mut open, mut members) = (vec![first], Vec::new());
            group_of[first] = Some(groups.len());
            while let Some(at) = open.pop() {
                members.push(entries[at].item.file.key.clone());
                for next in 0..entries.len() {
                    if group_of[next].is_none() && linked(at, next) {
                        group_of[next] = Some(groups.len());
                        open.push(next);
                    }
                }
            }
            members.sort();
            groups.push(members);
        }
        groups.retain(|g| g.len() > 1);
        groups.sort();
        assert!(groups.len() > 50, "{} groups", groups.len());
        let mut told = 0;
        let found = duplicates(&store, least, filter.as_ref(), &mut |done, _| told = done).unwrap();
        assert_eq!(told, entries.len());
        let closest = |g: &bifocal_search::duplicates::Group| g.members.iter().map(|m| m.score).fold(0.0, f32::max);
        assert!(found.is_sorted_by(|a, b| closest(a) >= closest(b)));
        assert!(found.iter().flat_map(|g| &g.members).all(|m| m.score >= least));
        let mut keys: Vec<Vec<String>> = found
            .iter()
            .map(|g| g.members.iter().map(|m| m.key.clone()).collect())
            .collect();
        keys.sort();
        assert!(keys == groups, "{least}: {} groups for {}", keys.len(), groups.len());
    }
    for bad in [0.0, -1.0, f32::NAN] {
        assert!(matches!(
            duplicates(&store, bad, None, &mut |_, _| ()),
            Err(StoreError::Invalid { .. })
        ));
    }
    let empty = tempfile::tempdir().unwrap();
    let empty = LocalStore::open_writer(empty.path(), &model()).unwrap();
    assert_eq!(duplicates(&empty, 0.9, None, &mut |_, _| ()).unwrap(), []);
}
