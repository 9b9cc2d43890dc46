//! The local store at a size of its users: build, size, memory, and queries with and without filters.
//!
//! `cargo bench --bench store`; `benches/compare/search_faiss.py` runs it beside faiss and usearch. Arguments: `--rows N`, `--dim N`, and
//! `--data FOLDER` with `rows.f32` and `queries.f32` (little-endian, one row after another) in place of made-up ones. Prints JSON lines.

use std::path::PathBuf;
use std::time::Instant;

use bifocal_search::{
    ContentHash, Entry, FileFacts, Filter, Item, LocalStore, Metadata, ModelId, SearchOptions, Store,
};

/// Queries of a batch.
const BATCH: usize = 64;
/// Runs whose median is told.
const RUNS: usize = 15;

fn main() {
    let (mut rows, mut dim, mut data) = (100_000usize, 512usize, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match &argument[..] {
            "--rows" => rows = value().parse().expect("a number"),
            "--dim" => dim = value().parse().expect("a number"),
            "--data" => data = Some(PathBuf::from(value())),
            _ => {} // cargo's own
        }
    }
    let read = |name: &str, count: usize, seed: u64| match &data {
        Some(folder) => std::fs::read(folder.join(name))
            .expect("the data")
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect(),
        None => made_up(count * dim, seed),
    };
    let vectors = read("rows.f32", rows, 1);
    let queries = read("queries.f32", BATCH, 2);
    let queries: Vec<&[f32]> = queries.chunks_exact(dim).take(BATCH).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let model = ModelId {
        fingerprint: "bench".to_owned(),
        dim,
        name: "bench".to_owned(),
    };
    let store = LocalStore::open_writer(dir.path(), &model).expect("a store");
    let begin = Instant::now();
    let entries: Vec<Entry> = vectors
        .chunks_exact(dim)
        .enumerate()
        .map(|(i, v)| entry(i, v))
        .collect();
    entries
        .chunks(1024)
        .for_each(|chunk| store.upsert(chunk).expect("stored"));
    store.flush().expect("flushed");
    tell("build", begin.elapsed().as_secs_f64(), "s");
    drop((entries, vectors));
    let begin = Instant::now();
    store.search(queries[0], &SearchOptions::default()).expect("hits");
    tell("first query", 1e3 * begin.elapsed().as_secs_f64(), "ms");
    let stats = store.stats().expect("stats");
    tell("disk", stats.disk_bytes as f64 / 1e6, "MB");
    tell("memory", stats.memory_bytes as f64 / 1e6, "MB");
    for filter in [
        None,
        Some("n < 500"),
        Some("n < 100"),
        Some("n < 10"),
        Some("n < 1"),
        Some("path ~ '1/*'"),
    ] {
        let options = SearchOptions {
            filter: filter.map(|f| f.parse::<Filter>().expect("a filter")),
            ..SearchOptions::default()
        };
        let name = filter.map_or("query".to_owned(), |f| format!("query where {f}"));
        if filter.is_some() {
            let begin = Instant::now();
            store.search(queries[0], &options).expect("hits");
            tell(
                &format!("{name}, first time"),
                1e3 * begin.elapsed().as_secs_f64(),
                "ms",
            );
        }
        let mut at = 0;
        let time = median(|| {
            at += 1;
            store.search(queries[at % BATCH], &options).expect("hits");
        });
        tell(&name, time, "ms");
    }
    let time = median(|| drop(store.search_many(&queries, &SearchOptions::default()).expect("hits")));
    tell(&format!("{BATCH} queries at once, each"), time / BATCH as f64, "ms");
}

fn tell(what: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({ "what": what, "value": value, "unit": unit }));
}

fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            run();
            1e3 * begin.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

/// An item with what indexing a photo stores beside its vector, and a number below 1000 to filter by.
fn entry(i: usize, vector: &[f32]) -> Entry {
    let key = format!("{}/photo-{i:07}.jpg", i % 100);
    let file = FileFacts {
        hash: ContentHash::of_bytes(key.as_bytes()),
        key,
        size: 1_000_000,
        modified_ns: i as i64,
    };
    let metadata: Metadata = serde_json::from_value(serde_json::json!({
        "n": i * 7919 % 1000, "width": 640, "height": 480, "captions": {"en": ["a photo of something that somebody took somewhere"]},
    }))
    .expect("an object");
    let item = Item {
        file,
        metadata,
        thumbnail: None,
    };
    Entry::new(item, vector.to_vec())
}

/// SplitMix64, as numbers between -1 and 1.
fn made_up(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
