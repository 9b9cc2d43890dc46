//! What every store has to do. Each case gets a way to open a store that is empty at the first time and keeps its content after.

use bifocal_search::{Entry, Filter, Hit, ListOptions, Metadata, SearchOptions, Store, StoreError};

use crate::made::{DIM, Random, entry, limit, model, stored};

/// Opens the same store again; the one that was opened before is closed by then.
pub type Open<'a> = &'a dyn Fn() -> Box<dyn Store>;

/// A requirement.
pub type Case = fn(Open);

/// All cases, by name.
pub const CASES: &[(&str, Case)] = &[
    ("an empty store answers", empty),
    ("what is stored comes back", roundtrip),
    ("upsert replaces", replaces),
    ("delete counts what was there", deletes),
    ("search is exact", exact),
    ("search orders and cuts", order),
    ("filters never shorten the result", filters),
    ("scores are told with what is typical", typical),
    ("several vectors are one item", several),
    ("annotations change nothing else", annotations),
    ("pages hold every item once", pages),
    ("a bad entry leaves nothing of its call", atomic),
    ("many queries are answered as each by itself", many),
    ("bad queries are refused", bad_queries),
    ("many threads use one store", threads),
    ("random calls agree with a map", crate::twin::random_calls),
    ("flush changes nothing that is seen", flush),
    (
        "failures are remembered until they are solved",
        crate::failures::remembered,
    ),
];

fn axis(at: usize) -> Vec<f32> {
    (0..DIM).map(|d| f32::from(u8::from(d == at))).collect()
}

fn top(store: &dyn Store, query: &[f32], k: usize) -> Vec<Hit> {
    store.search(query, &limit(k)).unwrap().hits
}

fn keys(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|h| h.key.as_str()).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    // One unit in the last place of an f16 below 1.
    assert!(
        found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1.0 / 2048.0),
        "{found:?} for {expected:?}"
    );
}

fn empty(open: Open) {
    let store = open();
    assert_eq!(store.model(), &model());
    assert_eq!(store.count().unwrap(), 0);
    assert_eq!(store.files().unwrap(), []);
    assert_eq!(store.get("a").unwrap(), None);
    assert_eq!(store.delete(&["a"]).unwrap(), 0);
    assert_eq!(top(&*store, &axis(0), 5), []);
    store.upsert(&[]).unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.items, stats.model), (0, model()));
}

fn roundtrip(open: Open) {
    let mut one = entry("fotos/Käse 'n\" %_\n.jpg", &[3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    one.item.metadata.insert("title".into(), "größer".into());
    one.item
        .metadata
        .insert("nested".into(), serde_json::json!({"a": [1, 2.5, null]}));
    one.item.thumbnail = Some((0..=255).collect());
    one.item.file.size = i64::MAX as u64;
    one.item.file.modified_ns = i64::MIN;
    let two = entry("b", &axis(3));
    open().upsert(&[one.clone(), two.clone()]).unwrap();
    let store = open();
    let found = store.get(&one.item.file.key).unwrap().unwrap();
    assert_eq!(found.item, one.item);
    assert_close(&found.vectors[0], &stored(&one.vectors[0]));
    assert_eq!(store.files().unwrap(), [two.item.file, one.item.file.clone()]);
    let hits = top(&*store, &one.vectors[0], 1);
    assert_eq!(hits[0].metadata, one.item.metadata);
    assert!((hits[0].score - 1.0).abs() < 1e-3);
}

fn replaces(open: Open) {
    let store = open();
    store.upsert(&[entry("a", &axis(0)), entry("b", &axis(1))]).unwrap();
    assert_eq!(keys(&top(&*store, &axis(0), 1)), ["a"]);
    let mut newer = entry("a", &axis(2));
    newer.item.file.modified_ns = 77;
    store.upsert(&[entry("a", &axis(5)), newer.clone()]).unwrap();
    assert_eq!(store.count().unwrap(), 2);
    assert_eq!(store.get("a").unwrap().unwrap().item, newer.item);
    assert_eq!(keys(&top(&*store, &axis(2), 1)), ["a"]);
    let hits = top(&*store, &axis(5), 9);
    assert!(
        hits.len() == 2 && hits.iter().all(|h| h.score.abs() < 1e-3),
        "an old vector is still found: {hits:?}"
    );
}

fn deletes(open: Open) {
    let store = open();
    let entries: Vec<Entry> = (0..DIM).map(|i| entry(&format!("k{i}"), &axis(i))).collect();
    store.upsert(&entries).unwrap();
    assert_eq!(top(&*store, &axis(0), 99).len(), DIM);
    assert_eq!(store.delete(&["k0", "none", "k7", "k0"]).unwrap(), 2);
    let mut left: Vec<String> = top(&*store, &axis(0), 99).into_iter().map(|h| h.key).collect();
    left.sort();
    assert_eq!(left, ["k1", "k2", "k3", "k4", "k5", "k6"]);
    drop(store);
    assert_eq!(open().count().unwrap(), 6);
}

fn exact(open: Open) {
    let store = open();
    let mut random = Random(3);
    let entries: Vec<Entry> = (0..3000).map(|i| entry(&format!("{i:04}"), &random.vector())).collect();
    entries.chunks(700).for_each(|c| store.upsert(c).unwrap());
    for _ in 0..5 {
        let query = random.vector();
        let unit: f64 = query.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let mut scores: Vec<(f64, &str)> = entries
            .iter()
            .map(|e| {
                let dot: f64 = stored(&e.vectors[0])
                    .iter()
                    .zip(&query)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum();
                (dot / unit, e.item.file.key.as_str())
            })
            .collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        for k in [1, 10, 2999, 3000, 5000] {
            let hits = top(&*store, &query, k);
            assert_eq!(hits.len(), k.min(3000));
            for (hit, expected) in hits.iter().zip(&scores) {
                assert!(
                    (f64::from(hit.score) - expected.0).abs() < 1e-3,
                    "{hit:?} for {expected:?}"
                );
            }
        }
        assert_eq!(top(&*store, &query, 1)[0].key, scores[0].1);
    }
}

fn order(open: Open) {
    let store = open();
    store
        .upsert(&[
            entry("z", &axis(0)),
            entry("far", &[-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            entry("a", &axis(0)),
            entry("side", &axis(1)),
        ])
        .unwrap();
    // Equal scores in the order of storing; the length of the query does not matter.
    let long: Vec<f32> = axis(0).iter().map(|v| v * 1e6).collect();
    let hits = top(&*store, &long, 10);
    assert_eq!(keys(&hits), ["z", "a", "side", "far"]);
    assert!((hits[0].score - 1.0).abs() < 1e-3 && (hits[3].score + 1.0).abs() < 1e-3);
    let search = |k, min_score| {
        let options = SearchOptions { min_score, ..limit(k) };
        store.search(&axis(0), &options).unwrap().hits
    };
    assert_eq!(keys(&search(10, Some(0.5))), ["z", "a"]);
    assert_eq!(keys(&search(1, Some(-2.0))), ["z"]);
    assert_eq!(search(10, Some(1.5)), []);
    assert_eq!(search(0, None), []);
}

/// An item with a number, a colour and a time of its own.
fn numbered(i: u64, random: &mut Random) -> Entry {
    let mut entry = entry(
        &format!("{}/{i:05}.{}", i % 3, ["jpg", "PNG"][i as usize % 2]),
        &random.vector(),
    );
    entry.item.file.size = 1000 * i;
    entry.item.file.modified_ns = i as i64 * 86_400_000_000_000;
    entry.item.metadata.insert("number".to_owned(), i.into());
    if !i.is_multiple_of(5) {
        let colour = ["red", "Green", "blue"][(i / 7) as usize % 3];
        entry
            .item
            .metadata
            .insert("tags".to_owned(), serde_json::json!({"colour": [colour, "x"]}));
    }
    entry
}

fn filters(open: Open) {
    let store = open();
    let mut random = Random(5);
    let entries: Vec<Entry> = (0..2000).map(|i| numbered(i, &mut random)).collect();
    entries.chunks(300).for_each(|chunk| store.upsert(chunk).unwrap());
    // Items that were replaced and removed are in no result.
    store.upsert(&entries[100..200]).unwrap();
    let gone: Vec<&str> = entries[1900..].iter().map(|e| e.item.file.key.as_str()).collect();
    store.delete(&gone).unwrap();
    let entries = &entries[..1900];
    for filter in [
        "number >= 0",
        "number < 950",
        "number in (3, 30, 300) or number = 1",
        "number = 77",
        "number = 5000",
        "ext = png and path ~ '1/*'",
        "tags.colour = red and size > 1MB",
        "not exists tags",
        "date >= 1971 and date < 1971-02",
        "tags like 'gr_en'",
    ] {
        let filter: Filter = filter.parse().unwrap();
        let query = random.vector();
        let score = |e: &Entry| {
            stored(&e.vectors[0])
                .iter()
                .zip(&query)
                .map(|(a, b)| a * b)
                .sum::<f32>()
        };
        let mut expected: Vec<(&str, f32)> = entries
            .iter()
            .filter(|e| filter.matches(&e.item.file, &e.item.metadata))
            .map(|e| (e.item.file.key.as_str(), score(e)))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        for k in [1, 10, 5000] {
            let options = SearchOptions {
                filter: Some(filter.clone()),
                ..limit(k)
            };
            let found = store.search(&query, &options).unwrap();
            assert_eq!(found.matched, expected.len() as u64, "{filter}");
            assert_eq!(found.hits.len(), expected.len().min(k), "{filter}");
            let length = query.iter().map(|v| v * v).sum::<f32>().sqrt();
            for (hit, (key, score)) in found.hits.iter().zip(&expected) {
                assert!(
                    hit.key == *key || (hit.score - score / length).abs() < 1e-3,
                    "{filter}: {hit:?} for {key}"
                );
            }
        }
        assert_eq!(store.matching(&filter).unwrap(), expected.len() as u64, "{filter}");
        // The same items as a list, and left out one by one.
        let options = ListOptions {
            filter: Some(filter.clone()),
            limit: 5000,
            ..ListOptions::default()
        };
        let mut listed: Vec<String> = store.list(&options).unwrap().into_iter().map(|i| i.file.key).collect();
        assert!(listed.is_sorted());
        let mut keys: Vec<&str> = expected.iter().map(|e| e.0).collect();
        keys.sort_unstable();
        assert_eq!(listed, keys, "{filter}");
        listed.push("no such key".to_owned());
        let options = SearchOptions {
            filter: Some(filter.clone()),
            without: listed,
            ..limit(10)
        };
        let found = store.search(&query, &options).unwrap();
        assert_eq!((found.hits, found.matched), (Vec::new(), 0), "{filter}");
    }
}

fn typical(open: Open) {
    let store = open();
    let mut random = Random(6);
    let entries: Vec<Entry> = (0..500).map(|i| numbered(i, &mut random)).collect();
    store.upsert(&entries).unwrap();
    let query = random.vector();
    let length = query.iter().map(|v| v * v).sum::<f32>().sqrt();
    let found = store.search(&query, &limit(3)).unwrap();
    assert_eq!(found.matched, 500);
    let hit = &found.hits[0];
    let entry = entries.iter().find(|e| e.item.file.key == hit.key).unwrap();
    let facts = (hit.size, hit.modified_ns, &hit.metadata, hit.part);
    assert_eq!(
        facts,
        (
            entry.item.file.size,
            entry.item.file.modified_ns,
            &entry.item.metadata,
            0
        )
    );
    // A store that looks at all items says how their scores lie; one that does not says nothing.
    let Some(stats) = found.scores else { return };
    let scores: Vec<f64> = entries
        .iter()
        .map(|e| {
            stored(&e.vectors[0])
                .iter()
                .zip(&query)
                .map(|(a, b)| f64::from(a * b / length))
                .sum()
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / 500.0;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 500.0).sqrt();
    assert_eq!(stats.count, 500);
    assert!((f64::from(stats.mean) - mean).abs() < 1e-3 && (f64::from(stats.deviation) - deviation).abs() < 1e-3);
    assert!(stats.percentile(hit.score) > 99.0);
}

fn several(open: Open) {
    let several = |key: &str, axes: &[usize]| {
        let mut entry = entry(key, &[]);
        entry.vectors = axes.iter().map(|&a| axis(a)).collect();
        entry
    };
    let store = open();
    store
        .upsert(&[
            several("a", &[0, 1, 2]),
            several("b", &[3]),
            several("c", &[1, 4, 4, 5]),
        ])
        .unwrap();
    let hit = |query: &[f32]| {
        let found = store.search(query, &limit(9)).unwrap();
        let mut unique = keys(&found.hits);
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(
            (unique.len(), found.matched),
            (found.hits.len(), found.hits.len() as u64)
        );
        (found.hits[0].key.clone(), found.hits[0].part, found.hits.len())
    };
    assert_eq!(hit(&axis(2)), ("a".to_owned(), 2, 3));
    assert_eq!(hit(&axis(3)), ("b".to_owned(), 0, 3));
    // Of equal vectors the first one, of equal items the one stored first.
    assert_eq!(hit(&axis(4)), ("c".to_owned(), 1, 3));
    assert_eq!(hit(&axis(1)), ("a".to_owned(), 1, 3));
    let found = store.get("c").unwrap().unwrap();
    assert_eq!(found.vectors, [axis(1), axis(4), axis(4), axis(5)]);
    let direction = found.direction(DIM).unwrap();
    assert!((direction[4] - 2.0 / 6f32.sqrt()).abs() < 1e-6, "{direction:?}");
    store.upsert(&[several("a", &[6])]).unwrap();
    store.delete(&["b"]).unwrap();
    assert_eq!(hit(&axis(1)), ("c".to_owned(), 0, 2));
    assert_eq!(hit(&axis(6)), ("a".to_owned(), 0, 2));
    drop(store);
    assert_eq!(open().get("c").unwrap().unwrap(), found);
    let store = open();
    assert!(store.upsert(&[several("none", &[])]).is_err());
    let mut uneven = several("uneven", &[1, 2]);
    uneven.vectors[1].pop();
    assert!(matches!(
        store.upsert(&[uneven]),
        Err(StoreError::Dimensions { found: 7, .. })
    ));
    assert_eq!(store.count().unwrap(), 2);
}

fn annotations(open: Open) {
    let store = open();
    let mut one = entry("a", &axis(0));
    one.item.thumbnail = Some(vec![1, 2, 3]);
    one.item.metadata = serde_json::from_value(serde_json::json!({"keep": 1, "drop": 2, "set": 3})).unwrap();
    store.upsert(&[one.clone(), entry("b", &axis(1))]).unwrap();
    let marked = SearchOptions {
        filter: Some("set = new".parse().unwrap()),
        ..limit(9)
    };
    assert_eq!(store.search(&axis(0), &marked).unwrap().hits, []);
    let change: Metadata = serde_json::from_value(serde_json::json!({"drop": null, "set": "new", "add": [1]})).unwrap();
    let changes = [("a", change.clone()), ("none", change.clone())];
    assert_eq!(store.annotate(&changes).unwrap(), 1);
    let found = store.get("a").unwrap().unwrap();
    one.item.metadata = serde_json::from_value(serde_json::json!({"keep": 1, "set": "new", "add": [1]})).unwrap();
    assert_eq!(found.item, one.item);
    assert_eq!(keys(&store.search(&axis(0), &marked).unwrap().hits), ["a"]);
    // All of it or nothing.
    let mut huge = Metadata::new();
    huge.insert("x".to_owned(), "x".repeat(1 << 20).into());
    assert!(store.annotate(&[("b", change), ("a", huge)]).is_err());
    assert_eq!(store.get("b").unwrap().unwrap().item.metadata, Metadata::new());
    assert_eq!(store.annotate(&[]).unwrap(), 0);
}

fn pages(open: Open) {
    let store = open();
    let mut random = Random(7);
    let entries: Vec<Entry> = (0..57).map(|i| numbered(i, &mut random)).collect();
    store.upsert(&entries).unwrap();
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let options = ListOptions {
            after,
            limit: 10,
            ..ListOptions::default()
        };
        let (items, entries) = (store.list(&options).unwrap(), store.entries(&options).unwrap());
        assert!(items.len() <= 10 && items.iter().eq(entries.iter().map(|e| &e.item)));
        after = items.last().map(|i| i.file.key.clone());
        if after.is_none() {
            break;
        }
        seen.extend(entries);
    }
    let mut expected: Vec<&Entry> = entries.iter().collect();
    expected.sort_by(|a, b| a.item.file.key.cmp(&b.item.file.key));
    assert_eq!(seen.len(), 57);
    for (found, expected) in seen.iter().zip(expected) {
        assert_eq!(found.item, expected.item);
        assert_close(&found.vectors[0], &stored(&expected.vectors[0]));
    }
    let none = ListOptions {
        limit: 0,
        ..ListOptions::default()
    };
    assert_eq!(store.list(&none).unwrap(), []);
    // Thumbnails come one by one.
    let mut pictured = entry("pictured", &axis(0));
    pictured.item.thumbnail = Some(vec![9; 2000]);
    store.upsert(&[pictured]).unwrap();
    assert_eq!(store.thumbnail("pictured").unwrap(), Some(vec![9; 2000]));
    assert_eq!(store.thumbnail(&entries[0].item.file.key).unwrap(), None);
    assert_eq!(store.thumbnail("none").unwrap(), None);
    let page = ListOptions {
        after: Some("p".to_owned()),
        ..ListOptions::default()
    };
    assert_eq!(store.list(&page).unwrap()[0].thumbnail, None);
}

fn atomic(open: Open) {
    let store = open();
    store.upsert(&[entry("old", &axis(0))]).unwrap();
    let mut huge = entry("huge", &axis(0));
    huge.item.thumbnail = Some(vec![0; 1 << 26]);
    let bad = [
        entry("short", &[1.0]),
        entry("zero", &[0.0; DIM]),
        entry("nan", &[f32::NAN; DIM]),
        entry("", &axis(0)),
        huge,
    ];
    for bad in bad {
        let result = store.upsert(&[entry("good", &axis(1)), entry("old", &axis(2)), bad.clone()]);
        assert!(result.is_err(), "{} was stored", bad.item.file.key);
        assert_eq!(store.count().unwrap(), 1);
        assert_close(&store.get("old").unwrap().unwrap().vectors[0], &axis(0));
    }
}

fn many(open: Open) {
    let store = open();
    assert_eq!(store.search_many(&[], &limit(5)).unwrap(), []);
    let mut random = Random(8);
    let entries: Vec<Entry> = (0..1500).map(|i| numbered(i, &mut random)).collect();
    store.upsert(&entries).unwrap();
    let queries: Vec<Vec<f32>> = (0..40).map(|_| random.vector()).collect();
    for (count, filter) in [(1, None), (3, None), (40, None), (40, Some("number < 300"))] {
        let options = SearchOptions {
            filter: filter.map(|f| f.parse().unwrap()),
            ..limit(7)
        };
        let queries: Vec<&[f32]> = queries[..count].iter().map(Vec::as_slice).collect();
        let found = store.search_many(&queries, &options).unwrap();
        assert_eq!(found.len(), count);
        for (found, query) in found.iter().zip(queries) {
            let single = store.search(query, &options).unwrap();
            assert_eq!((found.matched, found.hits.len()), (single.matched, single.hits.len()));
            for (a, b) in found.hits.iter().zip(&single.hits) {
                assert!(
                    (a.score - b.score).abs() < 1e-5 && (a.key == b.key || a.score - b.score < 1e-5),
                    "{a:?} {b:?}"
                );
            }
        }
    }
    assert!(store.search_many(&[&queries[0], &[1.0]], &limit(1)).is_err());
}

fn bad_queries(open: Open) {
    let store = open();
    let search = |query: &[f32]| store.search(query, &SearchOptions::default());
    assert!(matches!(
        search(&[1.0]),
        Err(StoreError::Dimensions {
            found: 1,
            expected: DIM,
            ..
        })
    ));
    assert!(matches!(search(&[0.0; DIM]), Err(StoreError::NoDirection { .. })));
    assert!(matches!(
        search(&[f32::INFINITY; DIM]),
        Err(StoreError::NoDirection { .. })
    ));
}

fn threads(open: Open) {
    let store = open();
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random(writer);
                for i in 0..60 {
                    let key = |i: u64| format!("w{writer}-{i}");
                    store
                        .upsert(&[
                            entry(&key(i), &random.vector()),
                            entry(&format!("{}+", key(i)), &random.vector()),
                        ])
                        .unwrap();
                    if i % 3 == 2 {
                        assert_eq!(store.delete(&[&key(i - 1)]).unwrap(), 1);
                    }
                }
            });
        }
        for reader in 0..2 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random(100 + reader);
                for _ in 0..80 {
                    let least = store.count().unwrap() as usize;
                    let hits = top(&**store, &random.vector(), 1000);
                    // Each writer may have deleted since the count, but hits are never fewer than one call explains.
                    assert!(
                        hits.len() + 60 >= least,
                        "{} hits of at least {least} items",
                        hits.len()
                    );
                    let mut unique = keys(&hits);
                    unique.sort_unstable();
                    unique.dedup();
                    assert_eq!(unique.len(), hits.len(), "an item was found twice");
                }
            });
        }
    });
    assert_eq!(store.count().unwrap(), 2 * (120 - 20));
    assert_eq!(top(&*store, &axis(0), 1000).len(), 200);
}

fn flush(open: Open) {
    let store = open();
    store.upsert(&[entry("a", &axis(0)), entry("b", &axis(1))]).unwrap();
    let before = (store.files().unwrap(), top(&*store, &axis(0), 9));
    store.flush().unwrap();
    store.flush().unwrap();
    assert_eq!((store.files().unwrap(), top(&*store, &axis(0), 9)), before);
    assert_eq!(store.stats().unwrap().items, 2);
}
