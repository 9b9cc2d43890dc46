//! The graph beside the local store: the contract, recall, filters, its file, and who follows it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::made::{DIM, Random, entry, limit, model};
use bifocal_search::{
    Entry, Failure, FileFacts, Filter, Found, GraphUse, Hit, Item, ListOptions, LocalStore, Metadata, ModelId,
    SearchOptions, Stats, Store, StoreError,
};

/// The graph answers everything that it can.
pub const ALWAYS: GraphUse = GraphUse { from: 0, after: 0 };

/// As [`ALWAYS`], and most writing calls bring the graph up to date.
struct Eager {
    store: LocalStore,
    calls: AtomicU64,
}

impl Eager {
    fn open(dir: &Path) -> Self {
        let store = LocalStore::open_writer(dir, &model()).unwrap().with_graph(ALWAYS);
        Self { store, calls: 0.into() }
    }

    fn written<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        // Later calls let some changes come together: items that are newer than the graph, and some that are gone.
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        if calls < 20 || calls.is_multiple_of(16) {
            self.store.flush()?;
        }
        result
    }
}

impl Store for Eager {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }
    fn model(&self) -> &ModelId {
        self.store.model()
    }
    fn upsert(&self, entries: &[Entry]) -> Result<(), StoreError> {
        self.written(self.store.upsert(entries))
    }
    fn delete(&self, keys: &[&str]) -> Result<usize, StoreError> {
        self.written(self.store.delete(keys))
    }
    fn annotate(&self, changes: &[(&str, Metadata)]) -> Result<usize, StoreError> {
        self.written(self.store.annotate(changes))
    }
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key)
    }
    fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Found, StoreError> {
        self.store.search(query, options)
    }
    fn search_many(&self, queries: &[&[f32]], options: &SearchOptions) -> Result<Vec<Found>, StoreError> {
        self.store.search_many(queries, options)
    }
    fn list(&self, options: &ListOptions) -> Result<Vec<Item>, StoreError> {
        self.store.list(options)
    }
    fn entries(&self, options: &ListOptions) -> Result<Vec<Entry>, StoreError> {
        self.store.entries(options)
    }
    fn thumbnail(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.thumbnail(key)
    }
    fn count(&self) -> Result<u64, StoreError> {
        self.store.count()
    }
    fn files(&self) -> Result<Vec<FileFacts>, StoreError> {
        self.store.files()
    }
    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
    fn stats(&self) -> Result<Stats, StoreError> {
        self.store.stats()
    }
    fn matching(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.store.matching(filter)
    }
    fn note_failures(&self, failed: &[Failure], solved: &[&str]) -> Result<(), StoreError> {
        self.store.note_failures(failed, solved)
    }
    fn failures(&self) -> Result<Vec<Failure>, StoreError> {
        self.store.failures()
    }
    fn open_beside(&self, model: &ModelId) -> Result<Box<dyn Store>, StoreError> {
        self.store.open_beside(model)
    }
    fn replace_with_beside(&self) -> Result<(), StoreError> {
        self.written(self.store.replace_with_beside())
    }
}

#[test]
fn the_local_store_with_a_graph_keeps_the_contract() {
    for (name, case) in crate::contract::CASES {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        let open = || -> Box<dyn Store> { Box::new(Eager::open(dir.path())) };
        case(&open);
    }
}

/// Pictures in clusters of a cone, and queries from a cone beside it: how embeddings of photos and texts lie.
struct Made {
    model: ModelId,
    entries: Vec<Entry>,
    queries: Vec<Vec<f32>>,
}

impl Made {
    fn new(rows: usize, dim: usize) -> Self {
        let mut random = Random(11);
        let mut normal = || {
            (0..12)
                .map(|_| (random.next() >> 11) as f32 / (1u64 << 53) as f32)
                .sum::<f32>()
                - 6.0
        };
        let mut vector = |scale: f32| -> Vec<f32> { (0..dim).map(|_| scale * normal()).collect() };
        let (cone, gap) = (vector(1.0), vector(1.5));
        let centres: Vec<Vec<f32>> = (0..60).map(|_| vector(1.0)).collect();
        let sum = |parts: [&[f32]; 3]| (0..dim).map(|d| parts.iter().map(|p| p[d]).sum()).collect::<Vec<f32>>();
        let entries = (0..rows)
            .map(|i| {
                let mut entry = entry(
                    &format!("{i:05}.jpg"),
                    &sum([&cone, &centres[i * 7919 % 60], &vector(0.8)]),
                );
                entry.item.metadata.insert("n".to_owned(), (i * 7919 % 1000).into());
                entry
            })
            .collect();
        let queries = (0..100)
            .map(|i| sum([&gap, &centres[i * 31 % 60], &vector(1.2)]))
            .collect();
        let model = ModelId { dim, ..model() };
        Self {
            model,
            entries,
            queries,
        }
    }

    fn store(&self, dir: &Path, usage: GraphUse) -> LocalStore {
        let store = LocalStore::open_writer(dir, &self.model).unwrap().with_graph(usage);
        store.upsert(&self.entries).unwrap();
        store.flush().unwrap();
        store
    }
}

fn exactly(options: &SearchOptions) -> SearchOptions {
    SearchOptions {
        exact: true,
        ..options.clone()
    }
}

#[test]
fn ten_best_of_text_like_queries_are_found_with_and_without_filters() {
    let made = Made::new(5000, 64);
    let dir = tempfile::tempdir().unwrap();
    drop(made.store(dir.path(), ALWAYS));
    for usage in [ALWAYS, GraphUse { from: 1, after: 0 }] {
        let store = LocalStore::open_reader(dir.path(), None).unwrap().with_graph(usage);
        for (filter, matches) in [
            (None, 5000),
            (Some(500), 2500),
            (Some(100), 500),
            (Some(10), 50),
            (Some(1), 5),
        ] {
            let options = SearchOptions {
                filter: filter.map(|n| format!("n < {n}").parse().unwrap()),
                ..limit(10)
            };
            let (mut same, mut all) = (0, 0);
            for query in &made.queries {
                let found = store.search(query, &options).unwrap();
                let exact = store.search(query, &exactly(&options)).unwrap();
                assert_eq!((found.matched, exact.matched), (matches, matches));
                assert_eq!(found.hits.len(), exact.hits.len(), "{filter:?}");
                assert!(found.scores.unwrap().count <= exact.scores.unwrap().count);
                for hit in &found.hits {
                    if let Some(other) = exact.hits.iter().find(|other| other.key == hit.key) {
                        assert_eq!(hit.score.to_bits(), other.score.to_bits(), "{filter:?}");
                        same += 1;
                    }
                }
                all += exact.hits.len();
            }
            assert!(same * 100 >= all * 98, "{usage:?}, below {filter:?}: {same} of {all}");
        }
    }
}

#[test]
fn many_queries_score_to_the_bit_as_one() {
    let made = Made::new(3000, 48);
    let dir = tempfile::tempdir().unwrap();
    let store = made.store(dir.path(), ALWAYS);
    let queries: Vec<&[f32]> = made.queries.iter().map(Vec::as_slice).collect();
    for options in [limit(10), exactly(&limit(10))] {
        let together = store.search_many(&queries, &options).unwrap();
        for (found, query) in together.iter().zip(&queries) {
            assert_eq!(found.hits, store.search(query, &options).unwrap().hits);
        }
    }
}

#[test]
fn what_is_typical_is_told_from_a_sample() {
    let made = Made::new(6000, 32);
    let dir = tempfile::tempdir().unwrap();
    let store = made.store(dir.path(), ALWAYS);
    let found = store.search(&made.queries[0], &limit(10)).unwrap();
    let exact = store.search(&made.queries[0], &exactly(&limit(10))).unwrap();
    let (sampled, all) = (found.scores.unwrap(), exact.scores.unwrap());
    assert_eq!((all.count, sampled.count), (6000, 2000));
    assert!(
        (sampled.mean - all.mean).abs() < 0.1 * all.deviation,
        "{sampled:?} of {all:?}"
    );
    assert!(
        (sampled.deviation / all.deviation - 1.0).abs() < 0.1,
        "{sampled:?} of {all:?}"
    );
}

/// The hits of some queries, asked for as usual.
fn answers(store: &LocalStore, made: &Made) -> Vec<Vec<Hit>> {
    let one = |query: &Vec<f32>| store.search(query, &limit(10)).unwrap().hits;
    made.queries[..20].iter().map(one).collect()
}

#[test]
fn the_same_content_gives_the_same_file() {
    let made = Made::new(1500, 32);
    let files = [(); 2].map(|()| {
        let dir = tempfile::tempdir().unwrap();
        drop(made.store(dir.path(), ALWAYS));
        std::fs::read(dir.path().join("vectors.hnsw")).unwrap()
    });
    assert!(files[0] == files[1]);
}

#[test]
fn a_file_that_is_missing_or_damaged_costs_nothing_but_time() {
    let made = Made::new(1200, 32);
    let dir = tempfile::tempdir().unwrap();
    drop(made.store(dir.path(), ALWAYS));
    let path = dir.path().join("vectors.hnsw");
    let sound = std::fs::read(&path).unwrap();
    let reader = || LocalStore::open_reader(dir.path(), None).unwrap().with_graph(ALWAYS);
    let scan = |query: &Vec<f32>| reader().search(query, &exactly(&limit(10))).unwrap().hits;
    let truth: Vec<_> = made.queries[..20].iter().map(scan).collect();
    let mut random = Random(3);
    for round in 0..150 {
        let mut bytes = sound.clone();
        let at = random.below(bytes.len() as u64 - 32) as usize;
        match round % 5 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            // Damage on purpose, with a hash that fits it: in the header, among the items, and among the links.
            kind => {
                let place = [at % 72, 72 + at % (20 * 1200), at][kind - 2];
                bytes[place] ^= 1 << random.below(8);
                let end = bytes.len() - 32;
                let hash = blake3::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(hash.as_bytes());
            }
        }
        std::fs::write(&path, bytes).unwrap();
        for (hits, truth) in answers(&reader(), &made).iter().zip(&truth) {
            assert_eq!(hits.len(), truth.len());
            for hit in hits {
                let other = truth.iter().find(|other| other.key == hit.key);
                assert!(other.is_none_or(|other| other.score.to_bits() == hit.score.to_bits()));
            }
        }
    }
    // A writer makes it anew, the same as before.
    for damage in [None, Some(&sound[..sound.len() / 2])] {
        std::fs::remove_file(&path).unwrap();
        assert_eq!(answers(&reader(), &made), truth);
        damage.iter().for_each(|bytes| std::fs::write(&path, bytes).unwrap());
        let writer = LocalStore::open_writer(dir.path(), &made.model)
            .unwrap()
            .with_graph(ALWAYS);
        writer.flush().unwrap();
        assert!(std::fs::read(&path).unwrap() == sound);
    }
}

#[test]
fn a_graph_of_other_vectors_is_not_used() {
    let made = Made::new(600, 32);
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    drop(made.store(dirs[0].path(), ALWAYS));
    let mut others = Made::new(600, 32);
    others.entries.reverse();
    drop(others.store(dirs[1].path(), ALWAYS));
    // The same ids and the same model, as after a copy was restored.
    std::fs::copy(dirs[1].path().join("vectors.hnsw"), dirs[0].path().join("vectors.hnsw")).unwrap();
    let reader = LocalStore::open_reader(dirs[0].path(), None)
        .unwrap()
        .with_graph(ALWAYS);
    let found = reader.search(&made.queries[0], &limit(10)).unwrap();
    assert_eq!(found, reader.search(&made.queries[0], &exactly(&limit(10))).unwrap());
    // With the graph, memory holds more than the vectors.
    let without = reader.stats().unwrap().memory_bytes;
    drop(LocalStore::open_writer(dirs[0].path(), &made.model).map(|w| w.with_graph(ALWAYS).flush()));
    std::fs::remove_file(dirs[0].path().join("vectors.hnsw")).unwrap();
    drop(LocalStore::open_writer(dirs[0].path(), &made.model).map(|w| w.with_graph(ALWAYS).flush().unwrap()));
    answers(&reader, &made);
    assert!(reader.stats().unwrap().memory_bytes > without);
}

#[test]
fn a_reader_follows_what_the_writer_does_to_the_graph() {
    let made = Made::new(2000, 32);
    let dir = tempfile::tempdir().unwrap();
    let usage = GraphUse { from: 1, after: 0 };
    let writer = LocalStore::open_writer(dir.path(), &made.model)
        .unwrap()
        .with_graph(ALWAYS);
    let reader = LocalStore::open_reader(dir.path(), None).unwrap().with_graph(usage);
    let always = LocalStore::open_reader(dir.path(), None).unwrap().with_graph(ALWAYS);
    for (step, batch) in made.entries.chunks(250).enumerate() {
        writer.upsert(batch).unwrap();
        let gone: Vec<String> = (0..30).map(|i| format!("{:05}.jpg", 250 * step + 3 * i)).collect();
        if step % 2 == 0 {
            writer
                .delete(&gone.iter().map(String::as_str).collect::<Vec<_>>())
                .unwrap();
        }
        if step % 3 == 1 {
            writer.flush().unwrap();
        }
        for query in &made.queries[..10] {
            let exact = writer.search(query, &exactly(&limit(10))).unwrap();
            for store in [&writer, &reader, &always] {
                let found = store.search(query, &limit(10)).unwrap();
                assert_eq!(found.matched, exact.matched, "step {step}");
                let same = found.hits.iter().filter(|hit| exact.hits.contains(hit)).count();
                assert!(found.hits.len() == 10 && same >= 8, "step {step}: {same} of 10");
            }
        }
    }
    assert!(always.stats().unwrap().memory_bytes > 2 * 32 * 2000);
}

#[test]
fn one_item_of_many_vectors_leaves_room_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open_writer(dir.path(), &model())
        .unwrap()
        .with_graph(ALWAYS);
    let mut random = Random(5);
    let axis: Vec<f32> = (0..DIM).map(|d| f32::from(u8::from(d == 0))).collect();
    let mut crowd = entry("crowd", &axis);
    // All of these are closer than any other item.
    crowd.vectors = (0..900)
        .map(|_| {
            let mut near = random.vector();
            near[0] = 40.0;
            near
        })
        .collect();
    let mut entries = vec![crowd];
    entries.extend((0..50).map(|i| entry(&format!("k{i}"), &random.vector())));
    store.upsert(&entries).unwrap();
    store.flush().unwrap();
    let hits = store.search(&axis, &limit(10)).unwrap().hits;
    assert_eq!(hits, store.search(&axis, &exactly(&limit(10))).unwrap().hits);
    assert_eq!((hits[0].key.as_str(), hits.len()), ("crowd", 10));
}
