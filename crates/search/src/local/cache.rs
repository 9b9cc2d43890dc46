//! The vectors in memory, brought up to date by what changed since the last look, and how they are searched.

use std::collections::BTreeSet;
use std::ops::Range;

use bifocal_kernels::gemm::{Mat, Precision, gemm};
use bifocal_kernels::scan::{scan_chosen, scan_scores};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use rusqlite::Connection;

use crate::error::StoreError;
use crate::scores::ScoreStats;
use crate::store::from_bytes;

use super::engine::Context;
#[cfg(feature = "hnsw")]
use super::graph::{self, GraphUse};
use super::schema;
use super::top::{Best, Top};
use super::write::KEPT_GENERATIONS;

/// From so many queries on, a product is faster than as many scans.
pub(super) const TOGETHER_FROM: usize = 4;
/// Queries whose scores are held at a time: these many, more where rows are few, so that rows are widened less often.
const TOGETHER: (usize, usize) = (32, 64);
/// Scores that are held at a time, where that leaves enough queries: 64 MB.
const SCORES: usize = 16 << 20;
/// Rows that are widened to f32 at a time.
const BLOCK: usize = 1024;
/// A product rounds otherwise than a scan: as many more hits are scored again than are wanted.
const SPARE: usize = 16;
/// Items whose scores tell what is typical, where not all are looked at.
#[cfg(feature = "hnsw")]
const SAMPLE: usize = 2048;

/// All vectors of one generation of the store, in the order of their items' ids.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The generation that it shows; `None`: nothing was loaded.
    generation: Option<i64>,
    /// Items, ascending.
    ids: Vec<i64>,
    /// Where the rows of each item end.
    ends: Vec<usize>,
    rows: Vec<f16>,
    #[cfg(feature = "hnsw")]
    pub(super) graph: graph::Place,
}

/// What to look for.
pub(super) struct Wanted<'a> {
    pub(super) k: usize,
    /// Ids of the items that may be found, ascending; `None`: all.
    pub(super) chosen: Option<&'a [i64]>,
    /// Ids of items that may not.
    pub(super) without: &'a [i64],
    /// When the graph may be asked; `None`: never.
    #[cfg(feature = "hnsw")]
    pub(super) graph: Option<GraphUse>,
}

/// What a search found.
pub(super) struct Scanned {
    /// Best first.
    pub(super) best: Vec<Best>,
    pub(super) matched: u64,
    pub(super) scores: ScoreStats,
}

impl Cache {
    pub(super) fn generation(&self) -> Option<i64> {
        self.generation
    }

    pub(super) fn bytes(&self) -> usize {
        let vectors = size_of_val(&self.rows[..]) + size_of_val(&self.ids[..]) + size_of_val(&self.ends[..]);
        #[cfg(feature = "hnsw")]
        let vectors = vectors + self.graph.get().map_or(0, graph::Graph::bytes);
        vectors
    }

    /// The ids of all items, ascending.
    #[cfg(feature = "hnsw")]
    pub(super) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Rows of all items.
    pub(super) fn row_count(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The rows of the item at a place.
    pub(super) fn rows_of(&self, item: usize) -> Range<usize> {
        let first = if item == 0 { 0 } else { self.ends[item - 1] };
        first..self.ends[item]
    }

    /// Vectors, one after another.
    #[cfg(feature = "hnsw")]
    pub(super) fn halves(&self, rows: Range<usize>, dim: usize) -> &[f16] {
        &self.rows[rows.start * dim..rows.end * dim]
    }

    /// What each query finds.
    ///
    /// # Shapes
    /// `queries`: each `[dim]`.
    pub(super) fn search(&self, dim: usize, queries: &[Vec<f32>], wanted: &Wanted) -> Vec<Scanned> {
        let items = wanted.chosen.map(|chosen| self.places(chosen));
        let items = items.as_deref();
        #[cfg(feature = "hnsw")]
        if let Some(scanned) = self.search_graph(dim, queries, wanted, items) {
            return scanned;
        }
        self.scan(dim, queries, wanted, items)
    }

    /// The rows of items one after another.
    fn rows_of_all(&self, items: &[usize]) -> Vec<usize> {
        items.iter().flat_map(|&item| self.rows_of(item)).collect()
    }

    /// Looks at all `items` (places, ascending; `None`: all there are).
    fn scan(&self, dim: usize, queries: &[Vec<f32>], wanted: &Wanted, items: Option<&[usize]>) -> Vec<Scanned> {
        let rows = items.map(|items| self.rows_of_all(items));
        match &rows {
            // Reading the rows is what takes the time: many queries share it, and are one product.
            None if queries.len() >= TOGETHER_FROM => queries
                .chunks((SCORES / self.row_count().max(1)).clamp(TOGETHER.0, TOGETHER.1))
                .flat_map(|queries| {
                    let scores = self.scores_of_many(dim, queries);
                    let one = |(query, scores): (&Vec<f32>, &Vec<f32>)| {
                        let mut scanned = self.rank(scores, None, wanted.k.saturating_add(SPARE), wanted.without);
                        self.score_again(dim, query, wanted.k, &mut scanned.best);
                        scanned
                    };
                    queries.par_iter().zip(&scores).map(one).collect::<Vec<_>>()
                })
                .collect(),
            _ => queries
                .iter()
                .map(|query| {
                    let mut scores = vec![0.0; rows.as_ref().map_or(self.row_count(), Vec::len)];
                    match &rows {
                        None => scan_scores(&self.rows, dim, query, &mut scores),
                        Some(rows) => scan_chosen(&self.rows, dim, query, rows, &mut scores),
                    }
                    self.rank(&scores, items, wanted.k, wanted.without)
                })
                .collect(),
        }
    }

    /// Gives hits the scores that a scan gives, to the bit, and keeps the best `k`.
    fn score_again(&self, dim: usize, query: &[f32], k: usize, best: &mut Vec<Best>) {
        let ids: Vec<i64> = best.iter().map(|b| b.id).collect::<BTreeSet<_>>().into_iter().collect();
        let items = self.places(&ids);
        *best = self.rank(&self.scores(dim, query, &items), Some(&items), k, &[]).best;
    }

    /// The scores of the rows of items, one item after another.
    fn scores(&self, dim: usize, query: &[f32], items: &[usize]) -> Vec<f32> {
        let rows = self.rows_of_all(items);
        let mut scores = vec![0.0; rows.len()];
        scan_chosen(&self.rows, dim, query, &rows, &mut scores);
        scores
    }

    /// By the graph, where that pays; whatever it leaves out, the result is never shorter than it could be.
    #[cfg(feature = "hnsw")]
    fn search_graph(
        &self,
        dim: usize,
        queries: &[Vec<f32>],
        wanted: &Wanted,
        items: Option<&[usize]>,
    ) -> Option<Vec<Scanned>> {
        let (usage, graph) = (wanted.graph?, self.graph.get()?);
        let all = self.ids.len();
        if !graph::pays(usage, all, items.map_or(all, <[_]>::len), queries.len(), wanted.k) {
            return None;
        }
        let mut left: Vec<usize> = items.map_or_else(|| (0..all).collect(), <[_]>::to_vec);
        left.retain(|&place| !wanted.without.contains(&self.ids[place]));
        let mask = (left.len() < all).then(|| {
            let mut mask = vec![false; all];
            left.iter().for_each(|&place| mask[place] = true);
            mask
        });
        // Items that are not in the graph yet are always looked at, and some of all for what is typical.
        let newer = &left[left.partition_point(|&place| place < graph.covered(self))..];
        let sample = sample(&left);
        let by_graph = |query: &Vec<f32>| {
            let mut places = graph.candidates(query, wanted.k, mask.as_deref())?;
            places.extend(newer);
            let best = self
                .rank(&self.scores(dim, query, &places), Some(&places), wanted.k, &[])
                .best;
            let sampled = self.rank(&self.scores(dim, query, &sample), Some(&sample), 0, &[]);
            (best.len() >= wanted.k.min(left.len())).then_some(Scanned {
                best,
                matched: left.len() as u64,
                scores: sampled.scores,
            })
        };
        let one = |query: &Vec<f32>| {
            by_graph(query).or_else(|| self.scan(dim, std::slice::from_ref(query), wanted, items).pop())
        };
        // In the pool, since the library has room for as many searches at a time as that has threads.
        rayon::scope(|_| queries.par_iter().map(one).collect())
    }

    /// The scores of all rows, for each query.
    fn scores_of_many(&self, dim: usize, queries: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let count = self.row_count();
        let flat = queries.concat();
        let mut scores = vec![vec![0.0; count]; queries.len()];
        let mut wide = vec![0.0f32; BLOCK.min(count) * dim];
        let mut products = vec![0.0f32; BLOCK.min(count) * queries.len()];
        for first in (0..count).step_by(BLOCK) {
            let len = BLOCK.min(count - first);
            let halves = &self.rows[first * dim..(first + len) * dim];
            wide.par_chunks_mut(dim)
                .zip(halves.par_chunks(dim))
                .for_each(|(wide, halves)| {
                    halves.convert_to_f32_slice(wide);
                });
            let products = &mut products[..len * queries.len()];
            let block = Mat::new(&wide[..len * dim], len, dim);
            gemm(
                Mat::new(&flat, queries.len(), dim),
                block.t(),
                products,
                false,
                Precision::F32,
            );
            for (scores, products) in scores.iter_mut().zip(products.chunks_exact(len)) {
                scores[first..first + len].copy_from_slice(products);
            }
        }
        scores
    }

    /// Items by their best row; `scores` are those of the rows of `items` (`None`: of all), one item after another.
    fn rank(&self, scores: &[f32], items: Option<&[usize]>, k: usize, without: &[i64]) -> Scanned {
        let mut top = Top::new(k);
        let mut best_scores = Vec::with_capacity(items.map_or(self.ids.len(), <[usize]>::len));
        let mut from = 0;
        let mut consider = |item: usize| {
            let count = self.rows_of(item).len();
            let (part, score) = best_part(&scores[from..from + count]);
            from += count;
            let id = self.ids[item];
            if !without.contains(&id) {
                best_scores.push(score);
                top.consider(Best { id, score, part });
            }
        };
        match items {
            None => (0..self.ids.len()).for_each(&mut consider),
            Some(items) => items.iter().copied().for_each(&mut consider),
        }
        Scanned {
            best: top.into_sorted(),
            matched: best_scores.len() as u64,
            scores: ScoreStats::of(best_scores),
        }
    }

    /// The places of those of the ids that are there; both lists ascend.
    fn places(&self, chosen: &[i64]) -> Vec<usize> {
        let mut places = Vec::with_capacity(chosen.len().min(self.ids.len()));
        let mut at = 0;
        for &id in chosen {
            at += self.ids[at..].partition_point(|&i| i < id);
            if self.ids.get(at) == Some(&id) {
                places.push(at);
            }
        }
        places
    }

    /// Brings it to `generation`, the one that the connection's open transaction sees.
    pub(super) fn refresh(
        &mut self,
        connection: &Connection,
        generation: i64,
        dim: usize,
        cx: Context,
    ) -> Result<(), StoreError> {
        if self.generation == Some(generation) {
            return Ok(());
        }
        // Removals are remembered for so many generations; a restored older copy of the file looks like the future.
        let known = self
            .generation
            .filter(|g| (generation - KEPT_GENERATIONS..generation).contains(g));
        match known {
            Some(since) => self
                .drop_removed(connection, since, dim)
                .map_err(|e| cx.engine("reading what was removed", e))?,
            None => *self = Self::default(),
        }
        // Until all is read, the content is that of no generation.
        self.generation = None;
        self.load_new(connection, dim, cx)?;
        self.generation = Some(generation);
        #[cfg(feature = "hnsw")]
        graph::follow(self);
        Ok(())
    }

    fn drop_removed(&mut self, connection: &Connection, since: i64, dim: usize) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached("SELECT id FROM removed WHERE generation > ?1")?;
        let mut removed: Vec<i64> = statement
            .query_map([since], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if removed.is_empty() {
            return Ok(());
        }
        removed.sort_unstable();
        let (mut kept, mut from, mut to) = (0, 0, 0);
        for item in 0..self.ids.len() {
            let end = self.ends[item];
            if removed.binary_search(&self.ids[item]).is_err() {
                if to != from {
                    self.rows.copy_within(from * dim..end * dim, to * dim);
                }
                to += end - from;
                (self.ids[kept], self.ends[kept]) = (self.ids[item], to);
                kept += 1;
            }
            from = end;
        }
        self.ids.truncate(kept);
        self.ends.truncate(kept);
        self.rows.truncate(to * dim);
        Ok(())
    }

    fn load_new(&mut self, connection: &Connection, dim: usize, cx: Context) -> Result<(), StoreError> {
        let last = self.ids.last().copied().unwrap_or(i64::MIN);
        let fail = |e| cx.engine("reading vectors", e);
        let (count, bytes): (i64, i64) = connection
            .prepare_cached("SELECT count(*), coalesce(sum(length(f16)), 0) FROM vectors WHERE id > ?1")
            .and_then(|mut s| s.query_row([last], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(fail)?;
        let count = usize::try_from(count).unwrap_or(0);
        let bytes = usize::try_from(bytes).unwrap_or(0);
        let memory = |_| StoreError::Memory {
            path: cx.path.to_owned(),
            count,
            bytes,
        };
        self.rows.try_reserve(bytes / 2).map_err(memory)?;
        self.ids.try_reserve(count).map_err(memory)?;
        self.ends.try_reserve(count).map_err(memory)?;
        let mut statement = connection
            .prepare_cached("SELECT id, f16 FROM vectors WHERE id > ?1 ORDER BY id")
            .map_err(fail)?;
        let mut rows = statement.query([last]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let id: i64 = row.get(0).map_err(fail)?;
            let bytes = row.get_ref(1).and_then(|v| Ok(v.as_blob()?)).map_err(fail)?;
            let values = from_bytes(bytes, dim)
                .ok_or_else(|| cx.corrupt(format!("the vectors of item {id} are not {dim} numbers each")))?;
            self.rows.extend(values);
            self.ids.push(id);
            self.ends.push(self.rows.len() / dim);
        }
        Ok(())
    }

    /// Forgets everything, after a damaged row.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// About [`SAMPLE`] of some items, one of each stretch, at a place that is anywhere in it: what is stored in turns must not fall into step with it.
#[cfg(feature = "hnsw")]
fn sample(items: &[usize]) -> Vec<usize> {
    let stretch = items.len().div_ceil(SAMPLE).max(1);
    let anywhere = |number: usize| (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let one = |(number, items): (usize, &[usize])| items[anywhere(number) as usize % items.len()];
    items.chunks(stretch).enumerate().map(one).collect()
}

/// The largest of some scores and where it is; the first of equal ones.
fn best_part(scores: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (part, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (part, score);
        }
    }
    best
}

/// The generation that the open transaction sees.
pub(super) fn current(connection: &Connection, cx: Context) -> Result<i64, StoreError> {
    schema::generation(connection).map_err(|e| cx.engine("reading its generation", e))
}
