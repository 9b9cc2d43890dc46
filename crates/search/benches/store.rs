//! The local store at a size of its users: build, size, memory, and queries with and without filters.
//!
//! `cargo bench -p bifocal-search --bench store`, with `--features hnsw` also by its graph. Arguments:
//!
//! - `--rows N`, `--dim N`: how much is made up;
//! - `--data FOLDER`: rows and queries from `rows.npy` and `queries.npy` (`bifocal embed --out`, float32) in it instead; when there are fewer
//!   rows than `--rows`, the others are made of two real ones each, as pictures that show both;
//! - `--graph`: by the graph wherever it can answer;
//! - `--recall`: the table of docs/search.md, what the graph finds of what the scan finds;
//! - `--turns`: does what lines on its input ask for, in turns with others (`benches/compare/search_faiss.py`).
//!
//! Prints JSON lines, and the table as Markdown.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bifocal_search::{
    ContentHash, Entry, FileFacts, Filter, Item, LocalStore, Metadata, ModelId, SearchOptions, Store,
};

/// Queries of a batch.
const BATCH: usize = 64;
/// Runs whose median is told.
const RUNS: usize = 15;
/// Noise in a made row, as a part of the length of the real one that it is made of.
const NOISE: f32 = 0.3;

#[derive(Default)]
struct Arguments {
    rows: Option<usize>,
    dim: Option<usize>,
    data: Option<PathBuf>,
    graph: bool,
    recall: bool,
    turns: bool,
}

fn main() {
    let mut asked = Arguments::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match &argument[..] {
            "--rows" => asked.rows = Some(value().parse().expect("a number")),
            "--dim" => asked.dim = Some(value().parse().expect("a number")),
            "--data" => asked.data = Some(PathBuf::from(value())),
            "--graph" => asked.graph = true,
            "--recall" => asked.recall = true,
            "--turns" => asked.turns = true,
            _ => {} // cargo's own
        }
    }
    let (vectors, queries, dim) = data(&asked);
    let queries: Vec<&[f32]> = queries.chunks_exact(dim).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let model = ModelId {
        fingerprint: "bench".to_owned(),
        dim,
        name: "bench".to_owned(),
    };
    let begin = Instant::now();
    let store = with_graph(
        LocalStore::open_writer(dir.path(), &model).expect("a store"),
        asked.graph || asked.recall,
    );
    let mut first = 0;
    for chunk in vectors.chunks(1024 * dim) {
        let entries: Vec<Entry> = chunk
            .chunks_exact(dim)
            .enumerate()
            .map(|(i, v)| entry(first + i, v))
            .collect();
        first += entries.len();
        store.upsert(&entries).expect("stored");
    }
    store.flush().expect("flushed");
    tell("build", begin.elapsed().as_secs_f64(), "s");
    drop((store, vectors));
    let begin = Instant::now();
    let store = LocalStore::open_reader(dir.path(), None).expect("a store");
    store.search(queries[0], &SearchOptions::default()).expect("hits");
    tell("opening and first query", 1e3 * begin.elapsed().as_secs_f64(), "ms");
    let store = with_graph(store, asked.graph || asked.recall);
    store.search(queries[0], &SearchOptions::default()).expect("hits");
    let stats = store.stats().expect("stats");
    tell("disk", stats.disk_bytes as f64 / 1e6, "MB");
    tell("memory", stats.memory_bytes as f64 / 1e6, "MB");
    if asked.turns {
        turns(&store, &queries[..BATCH.min(queries.len())]);
    } else if asked.recall {
        recall(&store, &queries);
    } else {
        filters(&store, &queries[..BATCH.min(queries.len())]);
    }
}

/// A store that is searched by its graph wherever that can answer, or never.
fn with_graph(store: LocalStore, graph: bool) -> LocalStore {
    #[cfg(feature = "hnsw")]
    {
        let from = if graph { 0 } else { u64::MAX };
        store.with_graph(bifocal_search::GraphUse { from, after: 0 })
    }
    #[cfg(not(feature = "hnsw"))]
    {
        assert!(!graph, "--graph and --recall need --features hnsw");
        store
    }
}

/// Rows, queries and their width.
fn data(asked: &Arguments) -> (Vec<f32>, Vec<f32>, usize) {
    let Some(folder) = &asked.data else {
        let (rows, dim) = (asked.rows.unwrap_or(100_000), asked.dim.unwrap_or(512));
        return (made_up(rows * dim, 1), made_up(BATCH * dim, 2), dim);
    };
    let (mut rows, dim) = npy(&folder.join("rows.npy"));
    let (queries, of_queries) = npy(&folder.join("queries.npy"));
    assert_eq!(dim, of_queries, "rows and queries are of one width");
    let (real, wanted) = (rows.len(), asked.rows.unwrap_or(0) * dim);
    let noise = made_up(wanted.saturating_sub(real), 3);
    let shares = made_up(2 * noise.len() / dim, 4);
    // Numbers between -1 and 1 have a variance of a third.
    let scale = NOISE * (3.0 / dim as f32).sqrt();
    for (made, noise) in noise.chunks_exact(dim).enumerate() {
        let second = ((shares[2 * made] + 1.0) / 2.0 * (real / dim) as f32) as usize % (real / dim) * dim;
        let share = 0.5 + 0.3 * shares[2 * made + 1];
        let first = made * dim % real;
        let mixed = (0..dim).map(|d| rows[first + d] + share * rows[second + d] + scale * noise[d]);
        let mixed: Vec<f32> = mixed.collect();
        rows.extend(mixed);
    }
    (rows, queries, dim)
}

/// A matrix that `bifocal embed` or numpy has written: float32, rows one after another.
fn npy(path: &Path) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(path).expect("the data");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..end]);
    assert!(
        header.contains("<f4") && header.contains("'fortran_order': False"),
        "{header}"
    );
    let shape = header
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .expect("a shape")
        .0;
    let dim = shape
        .split(',')
        .nth(1)
        .expect("two dimensions")
        .trim()
        .parse()
        .expect("a width");
    let values = bytes[end..].as_chunks::<4>().0;
    (values.iter().map(|&b| f32::from_le_bytes(b)).collect(), dim)
}

/// Times with and without filters.
fn filters(store: &LocalStore, queries: &[&[f32]]) {
    for filter in [
        None,
        Some("n < 500"),
        Some("n < 100"),
        Some("n < 10"),
        Some("n < 1"),
        Some("path ~ '1/*'"),
    ] {
        let options = options(filter);
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
            store.search(queries[at % queries.len()], &options).expect("hits");
        });
        tell(&name, time, "ms");
    }
    let time = median(|| drop(store.search_many(queries, &SearchOptions::default()).expect("hits")));
    tell(
        &format!("{} queries at once, each", queries.len()),
        time / queries.len() as f64,
        "ms",
    );
}

fn options(filter: Option<&str>) -> SearchOptions {
    SearchOptions {
        filter: filter.map(|f| f.parse::<Filter>().expect("a filter")),
        ..SearchOptions::default()
    }
}

/// What the graph finds of the ten best that the scan finds.
fn recall(store: &LocalStore, queries: &[&[f32]]) {
    println!("\n| filter | recall@10 | by the graph, ms | by a scan, ms |\n|---|---|---|---|");
    for (share, filter) in [
        ("none", None),
        ("50 %", Some("n < 500")),
        ("10 %", Some("n < 100")),
        ("1 %", Some("n < 10")),
        ("0.1 %", Some("n < 1")),
    ] {
        let near = options(filter);
        let exact = SearchOptions {
            exact: true,
            ..near.clone()
        };
        store.search(queries[0], &near).expect("hits");
        let (mut same, mut all, mut times) = (0, 0, [Vec::new(), Vec::new()]);
        for query in queries {
            let [found, truth] = [&near, &exact].map(|options| {
                let begin = Instant::now();
                let hits = store.search(query, options).expect("hits").hits;
                times[usize::from(options.exact)].push(1e3 * begin.elapsed().as_secs_f64());
                hits
            });
            assert_eq!(found.len(), truth.len(), "never shorter");
            same += found
                .iter()
                .filter(|hit| truth.iter().any(|other| other.key == hit.key))
                .count();
            all += truth.len();
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let [near, exact] = times.map(|times| times[times.len() / 2]);
        println!("| {share} | {:.4} | {near:.2} | {exact:.2} |", same as f64 / all as f64);
    }
}

/// `single`: every query by itself; `batch`: all at once; each tells the time of one. `found`: the numbers of the rows.
fn turns(store: &LocalStore, queries: &[&[f32]]) {
    let options = SearchOptions::default();
    for line in std::io::stdin().lock().lines() {
        let begin = Instant::now();
        let found = match &line.expect("a line")[..] {
            "single" => queries
                .iter()
                .map(|query| store.search(query, &options).expect("hits"))
                .collect(),
            _ => store.search_many(queries, &options).expect("hits"),
        };
        let time = 1e3 * begin.elapsed().as_secs_f64() / queries.len() as f64;
        let rows: Vec<Vec<i64>> = found
            .iter()
            .map(|f| f.hits.iter().map(|hit| hit.modified_ns).collect())
            .collect();
        println!("{}", serde_json::json!({ "ms": time, "rows": rows }));
    }
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
