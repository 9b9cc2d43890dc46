//! Groups of items that are nearly the same: every pair is compared, and who is linked to one of a group belongs to it.

use bifocal_kernels::gemm::{Mat, Precision, gemm};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::Serialize;

use crate::error::StoreError;
use crate::filter::Filter;
use crate::store::{ListOptions, Store};

/// Rows that are compared with as many at a time: both blocks and their products stay in the cache of one core.
const BLOCK: usize = 512;
/// Items that are read at a time.
const PAGE: usize = 1024;

/// Items of which each has a cosine of at least the given one with another of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Two or more, in the order of their keys.
    pub members: Vec<Member>,
}

/// An item of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Member {
    /// The item's key.
    pub key: String,
    /// Its largest cosine with another item.
    pub score: f32,
}

/// All groups of items that satisfy the filter, those with the closest pair first. An item of several vectors counts as their direction.
///
/// Holds one f16 row an item; time grows with the square of their number. `progress` is told how many of how many rows are compared.
///
/// # Errors
/// A least cosine that is not above 0, and failures of the store.
pub fn duplicates(
    store: &dyn Store,
    min_score: f32,
    filter: Option<&Filter>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Group>, StoreError> {
    // Below, everything is linked to everything, and NaN is no number at all.
    if min_score.is_nan() || min_score <= 0.0 {
        return Err(StoreError::Invalid {
            what: format!("the least cosine {min_score}"),
            why: "links everything to everything; give one above 0, such as 0.95",
        });
    }
    let dim = store.model().dim;
    let (keys, rows) = read(store, filter, dim)?;
    let mut links = Links::new(keys.len());
    let mut block = [vec![0.0f32; BLOCK * dim], vec![0.0f32; BLOCK * dim]];
    let mut scores = vec![0.0f32; BLOCK * BLOCK];
    for first in (0..keys.len()).step_by(BLOCK) {
        let [left, right] = &mut block;
        let left = widen(&rows, dim, first, left);
        for second in (first..keys.len()).step_by(BLOCK) {
            let right = widen(&rows, dim, second, right);
            let scores = &mut scores[..left.rows * right.rows];
            gemm(left, right.t(), scores, false, Precision::F32);
            for (i, row) in scores.chunks_exact(right.rows).enumerate() {
                let from = (first + i + 1).saturating_sub(second).min(right.rows);
                for (j, &score) in row.iter().enumerate().skip(from) {
                    if score >= min_score {
                        links.link(first + i, second + j, score);
                    }
                }
            }
        }
        progress((first + BLOCK).min(keys.len()), keys.len());
    }
    Ok(links.groups(&keys))
}

/// Keys and rows `[n, dim]` of all items, in the order of the keys.
fn read(store: &dyn Store, filter: Option<&Filter>, dim: usize) -> Result<(Vec<String>, Vec<f16>), StoreError> {
    let (mut keys, mut rows) = (Vec::new(), Vec::new());
    let mut options = ListOptions {
        after: None,
        limit: PAGE,
        filter: filter.cloned(),
    };
    loop {
        let page = store.entries(&options)?;
        for entry in &page {
            rows.extend(entry.direction(dim)?.into_iter().map(f16::from_f32));
            keys.push(entry.item.file.key.clone());
        }
        match page.last() {
            Some(last) => options.after = Some(last.item.file.key.clone()),
            None => return Ok((keys, rows)),
        }
    }
}

/// A block of rows as f32.
fn widen<'a>(rows: &[f16], dim: usize, first: usize, block: &'a mut [f32]) -> Mat<'a> {
    let rows = &rows[first * dim..];
    let count = (rows.len() / dim).min(BLOCK);
    rows[..count * dim].convert_to_f32_slice(&mut block[..count * dim]);
    Mat::new(&block[..count * dim], count, dim)
}

/// Who is linked with whom, as a forest.
struct Links {
    parent: Vec<usize>,
    best: Vec<f32>,
}

impl Links {
    fn new(count: usize) -> Self {
        Self {
            parent: (0..count).collect(),
            best: vec![f32::NEG_INFINITY; count],
        }
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn link(&mut self, a: usize, b: usize, score: f32) {
        for at in [a, b] {
            self.best[at] = self.best[at].max(score);
        }
        let (a, b) = (self.root(a), self.root(b));
        // The earlier one is the root, so that the result does not depend on the order of links.
        self.parent[a.max(b)] = a.min(b);
    }

    fn groups(mut self, keys: &[String]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = vec![usize::MAX; keys.len()];
        for at in 0..keys.len() {
            if self.best[at] == f32::NEG_INFINITY {
                continue;
            }
            let root = self.root(at);
            if group_of[root] == usize::MAX {
                group_of[root] = groups.len();
                groups.push(Group { members: Vec::new() });
            }
            groups[group_of[root]].members.push(Member {
                key: keys[at].clone(),
                score: self.best[at],
            });
        }
        let closest = |group: &Group| group.members.iter().map(|m| m.score).fold(f32::MIN, f32::max);
        // Stable: equal ones in the order of their first keys.
        groups.sort_by(|a, b| closest(b).total_cmp(&closest(a)));
        groups
    }
}
