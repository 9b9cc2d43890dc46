//! Which items satisfy the filters that were asked for lately: people change the query more often than the filter, and reading all
//! metadata takes ten times as long as scanning all vectors.

use std::sync::Arc;

use crate::filter::Filter;

/// Ids that are remembered in all: 32 MB.
const MAX_IDS: usize = 4 << 20;
/// Filters that are remembered.
const MAX_FILTERS: usize = 16;

/// Results of one generation.
#[derive(Debug, Default)]
pub(super) struct Masks {
    generation: Option<i64>,
    /// The latest last.
    recent: Vec<(Filter, Arc<[i64]>)>,
}

impl Masks {
    /// The ids of the items that satisfy `filter`, ascending, if that is known of this generation.
    pub(super) fn get(&mut self, generation: i64, filter: &Filter) -> Option<Arc<[i64]>> {
        if self.generation != Some(generation) {
            return None;
        }
        let at = self.recent.iter().position(|(known, _)| known == filter)?;
        let found = self.recent.remove(at);
        let ids = found.1.clone();
        self.recent.push(found);
        Some(ids)
    }

    /// Remembers what was found, and forgets what was not asked for since longest.
    pub(super) fn put(&mut self, generation: i64, filter: &Filter, ids: &Arc<[i64]>) {
        if self.generation != Some(generation) {
            self.recent.clear();
            self.generation = Some(generation);
        }
        self.recent.retain(|(known, _)| known != filter);
        self.recent.push((filter.clone(), ids.clone()));
        let mut total: usize = self.recent.iter().map(|(_, ids)| ids.len()).sum();
        while total > MAX_IDS || self.recent.len() > MAX_FILTERS {
            total -= self.recent.remove(0).1.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_kept_for_one_generation_and_within_bounds() {
        let filter = |i: usize| -> Filter { format!("n = {i}").parse().unwrap() };
        let ids = |count: usize| -> Arc<[i64]> { (0..count as i64).collect() };
        let mut masks = Masks::default();
        for i in 0..MAX_FILTERS {
            masks.put(1, &filter(i), &ids(i));
        }
        assert_eq!(masks.get(1, &filter(0)).unwrap().len(), 0);
        // The one that was just asked for stays, the next oldest goes.
        masks.put(1, &filter(99), &ids(5));
        assert!(masks.get(1, &filter(0)).is_some() && masks.get(1, &filter(1)).is_none());
        masks.put(1, &filter(100), &ids(MAX_IDS));
        assert!(masks.get(1, &filter(99)).is_none() && masks.get(1, &filter(100)).is_some());
        masks.put(1, &filter(101), &ids(MAX_IDS + 1));
        assert!(masks.recent.is_empty());
        masks.put(1, &filter(1), &ids(1));
        assert!(masks.get(2, &filter(1)).is_none());
        masks.put(2, &filter(2), &ids(1));
        assert!(masks.get(2, &filter(1)).is_none() && masks.get(1, &filter(1)).is_none());
    }
}
