//! A graph over the vectors (HNSW, by usearch) that finds candidates in large collections.
//!
//! It is a cache and never the truth: what it proposes is looked up among the vectors in memory and scored with them; what was stored after it
//! was built is scanned; what was removed is passed over. The file `vectors.hnsw` may be deleted at any time. A writer builds or extends
//! it in [`Store::flush`](crate::Store::flush); readers take it up when they see it.
//!
//! Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs", 2016.

mod check;
mod file;

use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use crate::store::ModelId;

use super::cache::Cache;
pub(super) use file::{Facts, Stamp};

/// Links of a node on all layers but the lowest, which has twice as many (M of the paper).
const LINKS: usize = 32;
/// Candidates kept while a node is linked (efConstruction of the paper).
const WIDTH_ADD: usize = 256;
/// Candidates kept while searching (ef of the paper), at least. Queries that are texts lie apart from all pictures: with the usual 16 links and 64 to 160
/// candidates, real captions found only 87 % of their ten best among 20,000 embeddings of photos; so, 99.8 %.
const WIDTH: usize = 640;
/// As many times what is wanted are kept.
const WIDTH_PER_HIT: usize = 4;
/// For each candidate that it keeps, a search takes as long as scanning so many vectors: measured on 20,000 of 768 dimensions.
const VISITED: usize = 80;
/// A product with many queries costs each of them so many times less than a scan.
const PRODUCT_GAIN: usize = 8;
/// From one removed of so many covered items on, the graph is built anew.
const GONE_SHARE: u64 = 4;
/// From one new for so many covered items on, the graph is extended.
const NEW_SHARE: u64 = 16;
/// What stands for an item that is no longer there.
const GONE: u32 = u32::MAX;

/// When a local store is searched by its graph and not by a scan. Results of `exact` searches never come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphUse {
    /// In stores of so many items or more; 0: in all, and for all queries, also where a scan would be quicker.
    pub from: u64,
    /// After so many queries of this process: loading takes as long as several scans.
    pub after: u32,
}

impl Default for GraphUse {
    /// From 200,000 items on, of which the scan of 512 dimensions reads 200 MB; after eight queries.
    fn default() -> Self {
        Self {
            from: 200_000,
            after: 8,
        }
    }
}

/// An item whose vectors are in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Covered {
    id: i64,
    /// Hash of its vectors: ids of a store that was restored from a copy may come again for something else.
    hash: u64,
    rows: u32,
}

impl Covered {
    fn of(id: i64, rows: &[f16], dim: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::with_capacity(2 * rows.len());
        bytes.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
        hasher.update(&bytes);
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        Self {
            id,
            hash: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            rows: (rows.len() / dim) as u32,
        }
    }
}

/// A graph and which items of the vectors in memory it knows.
pub(super) struct Graph {
    /// Keys are the numbers of the rows, from 0 on in the order of adding.
    index: Index,
    /// Ascending; all items up to the last of them that were there when it was built.
    items: Vec<Covered>,
    /// For each row the place of its item among the vectors in memory, or [`GONE`].
    places: Vec<u32>,
    gone: u64,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Graph({} rows, {} items gone)", self.places.len(), self.gone)
    }
}

/// The graph beside the vectors in memory, and the file that it was read from.
#[derive(Debug, Default)]
pub(super) struct Place {
    graph: Option<Graph>,
    /// The file that was looked at last, also when there was nothing to be had from it.
    seen: Option<Stamp>,
}

impl Place {
    /// The graph, unless too little of it is left: most of what it finds would be passed over.
    pub(super) fn get(&self) -> Option<&Graph> {
        self.graph.as_ref().filter(|graph| !graph.is_worn())
    }

    /// Whether this version of the file was looked at.
    pub(super) fn has_seen(&self, stamp: Option<Stamp>) -> bool {
        self.seen == stamp
    }
}

/// Reads what the file of `stamp` holds.
pub(super) fn load(cache: &mut Cache, dir: &Path, model: &ModelId, stamp: Option<Stamp>) {
    cache.graph = Place::default();
    cache.graph.graph = Graph::read(&path(dir), cache, model);
    cache.graph.seen = stamp;
}

/// Looks up the graph's items again, after the vectors in memory have changed.
pub(super) fn follow(cache: &mut Cache) {
    let graph = cache.graph.graph.take();
    cache.graph.graph = graph.map(|mut graph| {
        graph.follow(cache);
        graph
    });
}

/// Writes the file for the vectors in memory: the old graph with what is new, or a new one.
///
/// # Errors
/// No memory, and what the operating system reports.
pub(super) fn renew(cache: &Cache, path: &Path, model: &ModelId) -> std::io::Result<()> {
    let old = Graph::read(path, cache, model).filter(|graph| !graph.is_worn());
    let renewed = match old {
        Some(mut graph) => graph.extend(cache, model.dim).map(|()| graph),
        None => Graph::build(cache, model.dim),
    };
    renewed.map_err(std::io::Error::other)?.write(path, model)
}

/// Candidates to keep for `k` hits.
pub(super) fn width(k: usize) -> usize {
    WIDTH.max(k.saturating_mul(WIDTH_PER_HIT))
}

/// Whether a search for `k` among `chosen` of `items` items is quicker by a graph than by `queries` scans of those chosen.
pub(super) fn pays(usage: GraphUse, items: usize, chosen: usize, queries: usize, k: usize) -> bool {
    if (items as u64) < usage.from || k >= items {
        return false;
    }
    // With a filter as many times more nodes are visited as it leaves out.
    let visited = (width(k) * VISITED).saturating_mul(items) / chosen.max(1);
    let is_product = queries >= super::cache::TOGETHER_FROM && chosen == items;
    let scanned = chosen / if is_product { PRODUCT_GAIN } else { 1 };
    usage.from == 0 || visited < scanned
}

/// Where the graph of the store in `dir` is kept.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("vectors.hnsw")
}

/// Whether a file that covers so many items is worth keeping, of which `known` are still there, and `new` were stored since.
pub(super) fn is_current(covered: u64, known: u64, new: u64) -> bool {
    covered.saturating_sub(known) * GONE_SHARE <= covered && new * NEW_SHARE <= covered
}

impl Graph {
    /// Of the vectors in memory, all by one thread: only so does the same content always give the same graph.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn build(cache: &Cache, dim: usize) -> Result<Self, String> {
        let mut graph = Self {
            index: new_index(dim)?,
            items: Vec::new(),
            places: Vec::new(),
            gone: 0,
        };
        graph.extend(cache, dim)?;
        Ok(graph)
    }

    /// Takes up all items behind the last one that it covers.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn extend(&mut self, cache: &Cache, dim: usize) -> Result<(), String> {
        let new = self.covered(cache)..cache.ids().len();
        let rows: usize = new.clone().map(|place| cache.rows_of(place).len()).sum();
        self.index
            .reserve_capacity_and_threads(self.places.len() + rows, threads())
            .map_err(|e| e.to_string())?;
        let mut wide = vec![0.0f32; dim];
        for place in new {
            let halves = cache.halves(cache.rows_of(place), dim);
            for row in halves.chunks_exact(dim) {
                row.convert_to_f32_slice(&mut wide);
                self.index
                    .add(self.places.len() as u64, &wide)
                    .map_err(|e| e.to_string())?;
                self.places.push(place as u32);
            }
            self.items.push(Covered::of(cache.ids()[place], halves, dim));
        }
        Ok(())
    }

    /// Reads the file; `None` when there is none, when it is damaged or when it is not of these vectors.
    pub(super) fn read(path: &Path, cache: &Cache, model: &ModelId) -> Option<Self> {
        let (items, nodes) = file::read(path, model, cache.row_count())?;
        let rows = items.iter().map(|item| item.rows as usize).sum();
        if !check::is_sound(&nodes, model.dim, rows) {
            return None;
        }
        let index = new_index(model.dim).ok()?;
        index.reserve_capacity_and_threads(0, threads()).ok()?;
        index.load_from_buffer(&nodes).ok()?;
        let mut graph = Self {
            index,
            items,
            places: vec![GONE; rows],
            gone: 0,
        };
        graph.follow(cache);
        graph.is_of(cache, model.dim).then_some(graph)
    }

    /// Writes the file in one step.
    ///
    /// # Errors
    /// What the library or the operating system reports.
    pub(super) fn write(&self, path: &Path, model: &ModelId) -> std::io::Result<()> {
        let mut nodes = vec![0; self.index.serialized_length()];
        self.index
            .save_to_buffer(&mut nodes)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        file::write(path, model, &self.items, &nodes)
    }

    /// Looks up its items among the vectors in memory.
    fn follow(&mut self, cache: &Cache) {
        let (mut place, mut row) = (0, 0);
        self.gone = 0;
        for item in &self.items {
            place += cache.ids()[place..].partition_point(|&id| id < item.id);
            let found = if cache.ids().get(place) == Some(&item.id) {
                place as u32
            } else {
                self.gone += 1;
                GONE
            };
            let end = row + item.rows as usize;
            self.places[row..end].fill(found);
            row = end;
        }
    }

    /// Whether its items are those of the vectors in memory, as far as they are still there, and it knows all of them up to its last one.
    fn is_of(&self, cache: &Cache, dim: usize) -> bool {
        let mut known = self.items.iter();
        (0..self.covered(cache)).all(|place| {
            let id = cache.ids()[place];
            let here = Covered::of(id, cache.halves(cache.rows_of(place), dim), dim);
            known.by_ref().find(|item| item.id >= id) == Some(&here)
        })
    }

    /// Whether too little of it is left to build upon.
    fn is_worn(&self) -> bool {
        self.gone * GONE_SHARE > self.items.len() as u64
    }

    /// The items in memory before this place are in the graph, the others are not.
    pub(super) fn covered(&self, cache: &Cache) -> usize {
        let last = self.items.last().map_or(i64::MIN, |item| item.id);
        cache.ids().partition_point(|&id| id <= last)
    }

    /// Places of items that are likely the best for a query, ascending; `None` when the library fails.
    ///
    /// # Shapes
    /// `query`: `[dim]`; `mask`: whether the item at each place may be found; `None`: all may.
    pub(super) fn candidates(&self, query: &[f32], k: usize, mask: Option<&[bool]>) -> Option<Vec<usize>> {
        let width = width(k).min(self.places.len());
        let place = |row: u64| {
            self.places
                .get(usize::try_from(row).ok()?)
                .copied()
                .filter(|&p| p != GONE)
        };
        let allowed = |row: u64| {
            place(row).is_some_and(|place| mask.is_none_or(|mask| mask.get(place as usize).copied().unwrap_or(false)))
        };
        let found = if mask.is_none() && self.gone == 0 {
            self.index.search(query, width)
        } else {
            self.index.filtered_search(query, width, allowed)
        };
        let mut places: Vec<usize> = found
            .ok()?
            .keys
            .iter()
            .filter_map(|&row| place(row))
            .map(|p| p as usize)
            .collect();
        places.sort_unstable();
        places.dedup();
        Some(places)
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.index.memory_usage() + size_of_val(&self.items[..]) + size_of_val(&self.places[..])
    }
}

/// Searches run on the threads of the pool, and building on one of the caller's.
fn threads() -> usize {
    rayon::current_num_threads() + 1
}

/// Bytes are enough to find candidates, and half of the memory of the vectors.
fn new_index(dim: usize) -> Result<Index, String> {
    Index::new(&IndexOptions {
        dimensions: dim,
        metric: MetricKind::IP,
        quantization: ScalarKind::I8,
        connectivity: LINKS,
        expansion_add: WIDTH_ADD,
        expansion_search: WIDTH,
        multi: false,
    })
    .map_err(|e| e.to_string())
}
