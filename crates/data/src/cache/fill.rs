//! Computing what is missing, so that a kill costs seconds of work at most.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{CacheError, DamagedShard, FeatureStore, FillError, ItemKey};

/// How [`fill`] goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillOptions {
    /// Items that are computed at once.
    pub batch: usize,
    /// A shard is written when it holds so many bytes in f32…
    pub shard_bytes: usize,
    /// …or when this time has passed since the last one.
    pub every: Duration,
}

impl FillOptions {
    /// Batches of `batch` items, shards of at most 32 MiB, at least one in 5 seconds.
    #[must_use]
    pub fn batch(batch: usize) -> Self {
        Self {
            batch,
            shard_bytes: 32 << 20,
            every: Duration::from_secs(5),
        }
    }
}

/// Features of a batch, or of a part of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Computed {
    /// `[n, dim]`: one row for each item that has features, in the order of the batch.
    pub rows: Vec<f32>,
    /// Places in the batch of the items that have none, for example because their picture is damaged.
    pub failed: Vec<usize>,
}

impl From<Vec<f32>> for Computed {
    fn from(rows: Vec<f32>) -> Self {
        Self {
            rows,
            failed: Vec::new(),
        }
    }
}

/// What [`fill`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FillReport {
    /// Different items that were there already.
    pub reused: usize,
    /// Different items that were computed.
    pub computed: usize,
    /// Indices of the items that could not be computed, the first of equal ones.
    pub failed: Vec<usize>,
    /// Shards that were set aside on the way; their items were computed anew.
    pub damaged: Vec<DamagedShard>,
}

/// Computes the features of those `items` that the store lacks. Equal items are computed once; the shards with the others are verified.
///
/// `compute` gets indices into `items`, at most `options.batch` at a time, and gives their features; `progress` gets the number of
/// different items that are done and of all. What has been computed is stored even when `compute` fails.
///
/// # Errors
/// [`FillError`] from the store or from `compute`.
pub fn fill<E, C>(
    store: &mut FeatureStore,
    items: &[ItemKey],
    options: &FillOptions,
    mut compute: impl FnMut(&[usize]) -> Result<C, E>,
    mut progress: impl FnMut(usize, usize),
) -> Result<FillReport, FillError<E>>
where
    E: std::error::Error + 'static,
    C: Into<Computed>,
{
    let before = store.damaged().len();
    store.refresh()?;
    store.check(items)?;
    let mut seen = HashSet::new();
    let unique: Vec<usize> = (0..items.len()).filter(|&i| seen.insert(items[i])).collect();
    let keys: Vec<ItemKey> = unique.iter().map(|&i| items[i]).collect();
    let todo: Vec<usize> = store.missing(&keys).into_iter().map(|i| unique[i]).collect();
    let mut report = FillReport {
        reused: unique.len() - todo.len(),
        ..FillReport::default()
    };
    progress(report.reused, unique.len());

    let (mut waiting, mut rows) = (Vec::new(), Vec::<f32>::new());
    let mut last = Instant::now();
    for batch in todo.chunks(options.batch.max(1)) {
        let computed = match compute(batch) {
            Ok(computed) => computed.into(),
            Err(e) => {
                store.append(&waiting, &rows)?;
                return Err(FillError::Compute(e));
            }
        };
        let failed: HashSet<usize> = computed.failed.iter().copied().filter(|&p| p < batch.len()).collect();
        let expected = (batch.len() - failed.len()) * store.dim();
        if computed.rows.len() != expected {
            store.append(&waiting, &rows)?;
            let got = computed.rows.len();
            return Err(CacheError::Length {
                what: "computed numbers",
                expected,
                got,
            }
            .into());
        }
        for (place, &i) in batch.iter().enumerate() {
            if failed.contains(&place) {
                report.failed.push(i);
            } else {
                waiting.push(items[i]);
                report.computed += 1;
            }
        }
        rows.extend(computed.rows);
        if rows.len() * 4 >= options.shard_bytes || last.elapsed() >= options.every {
            store.append(&waiting, &rows)?;
            waiting.clear();
            rows.clear();
            last = Instant::now();
        }
        progress(report.reused + report.computed + report.failed.len(), unique.len());
    }
    store.append(&waiting, &rows)?;
    report.damaged = store.damaged()[before..].to_vec();
    Ok(report)
}
