//! Random calls, restarts among them, on a store and on a map in memory: both must always say the same.

use std::collections::BTreeMap;

use bifocal_search::{Entry, Filter, ListOptions, Metadata, SearchOptions, Store};

use crate::contract::Open;
use crate::made::{DIM, Random, entry, limit, stored};

/// Calls; another number may be set in the environment.
const STEPS: u64 = 20_000;
const STEPS_VARIABLE: &str = "BIFOCAL_STORE_STEPS";
/// As many keys as make replacing, deleting and missing all frequent.
const KEYS: u64 = 60;

/// What the store must hold: vectors as it gives them back.
type Twin = BTreeMap<String, Entry>;

pub fn random_calls(open: Open) {
    let steps = std::env::var(STEPS_VARIABLE).map_or(STEPS, |s| s.parse().unwrap());
    let mut run = Run {
        random: Random(20_240),
        twin: Twin::new(),
        seed: 20_240,
        step: 0,
    };
    let mut store = open();
    for step in 0..steps {
        run.step = step;
        match run.random.below(100) {
            0..=29 => run.upsert(&*store),
            30..=41 => run.delete(&*store),
            42..=51 => run.annotate(&*store),
            52..=79 => run.search(&*store),
            80..=89 => run.list(&*store),
            90..=97 => run.get(&*store),
            98 => store.flush().unwrap(),
            _ if run.random.below(4) == 0 => {
                drop(store);
                store = open();
            }
            _ => run.whole(&*store),
        }
    }
    run.whole(&*store);
}

struct Run {
    random: Random,
    twin: Twin,
    seed: u64,
    step: u64,
}

impl Run {
    fn place(&self) -> String {
        format!("seed {} step {}", self.seed, self.step)
    }

    fn key(&mut self) -> String {
        format!("{}/k{}.jpg", self.random.below(3), self.random.below(KEYS))
    }

    fn entry(&mut self) -> Entry {
        let mut entry = entry(&self.key(), &[]);
        let parts = if self.random.below(4) == 0 {
            1 + self.random.below(4)
        } else {
            1
        };
        entry.vectors = (0..parts).map(|_| self.random.vector()).collect();
        entry.item.file.size = self.random.below(1000);
        entry.item.file.modified_ns = self.random.below(1 << 61) as i64;
        entry
            .item
            .metadata
            .insert("n".to_owned(), self.random.below(100).into());
        entry.item.thumbnail = (self.random.below(2) == 0).then(|| vec![7; self.random.below(300) as usize]);
        entry
    }

    fn upsert(&mut self, store: &dyn Store) {
        let batch: Vec<Entry> = (0..=self.random.below(3)).map(|_| self.entry()).collect();
        store.upsert(&batch).unwrap();
        for mut entry in batch {
            entry.vectors = entry.vectors.iter().map(|v| stored(v)).collect();
            self.twin.insert(entry.item.file.key.clone(), entry);
        }
    }

    fn delete(&mut self, store: &dyn Store) {
        let keys = [self.key(), self.key()];
        let there = keys.iter().filter(|k| self.twin.remove(*k).is_some()).count();
        let deleted = store.delete(&[&keys[0], &keys[1]]).unwrap();
        assert_eq!(deleted, there, "{}", self.place());
    }

    fn annotate(&mut self, store: &dyn Store) {
        let (key, n) = (self.key(), self.random.below(100));
        let value = if n < 20 { serde_json::Value::Null } else { n.into() };
        let change = Metadata::from_iter([("n".to_owned(), value.clone())]);
        let there = store.annotate(&[(&key, change)]).unwrap();
        assert_eq!(there, usize::from(self.twin.contains_key(&key)), "{}", self.place());
        if let Some(entry) = self.twin.get_mut(&key) {
            if value.is_null() {
                entry.item.metadata.remove("n");
            } else {
                entry.item.metadata.insert("n".to_owned(), value);
            }
        }
    }

    fn filter(&mut self) -> Option<Filter> {
        let n = self.random.below(100);
        let text = match self.random.below(8) {
            0 => format!("n < {n}"),
            1 => format!("n = {n}"),
            2 => format!("size >= {}", 10 * n),
            3 => "path ~ '1/*' and not exists n".to_owned(),
            4 => format!("not n in ({n}, 3) or name like 'k1%'"),
            _ => return None,
        };
        Some(text.parse().unwrap())
    }

    fn matching(&self, filter: Option<&Filter>) -> Vec<&Entry> {
        let is_in = |e: &&Entry| filter.is_none_or(|f| f.matches(&e.item.file, &e.item.metadata));
        self.twin.values().filter(is_in).collect()
    }

    fn search(&mut self, store: &dyn Store) {
        let query = self.random.vector();
        let (filter, left_out) = (self.filter(), self.key());
        let k = self.random.below(12) as usize;
        let options = SearchOptions {
            min_score: (self.random.below(4) == 0).then_some(0.25),
            filter: filter.clone(),
            without: vec![left_out.clone()],
            ..limit(k)
        };
        let found = store.search(&query, &options).unwrap();
        let length = query.iter().map(|v| v * v).sum::<f32>().sqrt();
        let score = |entry: &Entry| {
            let of = |v: &Vec<f32>| v.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>() / length;
            entry.vectors.iter().map(of).fold(f32::MIN, f32::max)
        };
        let mut matching = self.matching(filter.as_ref());
        matching.retain(|e| e.item.file.key != left_out);
        assert_eq!(found.matched, matching.len() as u64, "{}", self.place());
        let mut scores: Vec<f32> = matching.iter().map(|e| score(e)).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let enough = |s: &f32| options.min_score.is_none_or(|least| *s >= least - 1e-3);
        let few = scores
            .iter()
            .filter(|s| options.min_score.is_none_or(|least| **s >= least + 1e-3));
        let (least, most) = (few.count().min(k), scores.iter().filter(|s| enough(s)).count().min(k));
        assert!(
            (least..=most).contains(&found.hits.len()),
            "{}: {found:?}",
            self.place()
        );
        let mut seen = Vec::new();
        for (hit, best) in found.hits.iter().zip(scores) {
            let entry = &self.twin[&hit.key];
            assert!((hit.score - best).abs() < 1e-3, "{}: {hit:?} for {best}", self.place());
            assert!((hit.score - score(entry)).abs() < 1e-3, "{}: {hit:?}", self.place());
            assert_eq!(hit.metadata, entry.item.metadata, "{}", self.place());
            assert!(!seen.contains(&&hit.key), "{}: {hit:?} twice", self.place());
            seen.push(&hit.key);
        }
    }

    fn list(&mut self, store: &dyn Store) {
        let filter = self.filter();
        let after = (self.random.below(2) == 0).then(|| self.key());
        let options = ListOptions {
            after: after.clone(),
            limit: self.random.below(9) as usize,
            filter: filter.clone(),
        };
        let listed = store.list(&options).unwrap();
        let mut expected: Vec<&Entry> = self.matching(filter.as_ref());
        if let Some(filter) = &filter {
            assert_eq!(
                store.matching(filter).unwrap(),
                expected.len() as u64,
                "{}",
                self.place()
            );
        }
        expected.retain(|e| after.as_ref().is_none_or(|a| e.item.file.key > *a));
        expected.truncate(options.limit);
        assert_eq!(listed.len(), expected.len(), "{}", self.place());
        for (item, entry) in listed.iter().zip(expected) {
            assert_eq!((&item.file, &item.metadata), (&entry.item.file, &entry.item.metadata));
        }
    }

    fn get(&mut self, store: &dyn Store) {
        let key = self.key();
        let found = store.get(&key).unwrap();
        assert_eq!(
            found.as_ref().map(|e| &e.item),
            self.twin.get(&key).map(|e| &e.item),
            "{}",
            self.place()
        );
        let thumbnail = store.thumbnail(&key).unwrap();
        assert_eq!(
            thumbnail,
            self.twin.get(&key).and_then(|e| e.item.thumbnail.clone()),
            "{}",
            self.place()
        );
    }

    /// Everything at once.
    fn whole(&mut self, store: &dyn Store) {
        let all = ListOptions {
            limit: usize::MAX,
            ..ListOptions::default()
        };
        let entries = store.entries(&all).unwrap();
        assert_eq!(store.count().unwrap(), self.twin.len() as u64, "{}", self.place());
        assert_eq!(entries.len(), self.twin.len(), "{}", self.place());
        let files = store.files().unwrap();
        for ((found, file), expected) in entries.iter().zip(&files).zip(self.twin.values()) {
            assert_eq!(
                (&found.item.file, file),
                (&expected.item.file, &expected.item.file),
                "{}",
                self.place()
            );
            assert_eq!(found.vectors.len(), expected.vectors.len(), "{}", self.place());
            for (a, b) in found.vectors.iter().zip(&expected.vectors) {
                let near = a.len() == DIM && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1.0 / 2048.0);
                assert!(near, "{}: {a:?} for {b:?}", self.place());
            }
        }
    }
}
