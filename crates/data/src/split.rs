//! Holding samples back, always the same ones.

/// How many samples are held back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HoldOut {
    /// This many different keys, or all when there are fewer.
    Count(usize),
    /// This part of all possible keys (0–1): a key's side never depends on which other keys there are.
    Fraction(f64),
}

/// Indices of both sides, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// For training.
    pub train: Vec<usize>,
    /// Held back.
    pub held_out: Vec<usize>,
}

/// Splits samples by a hash of their key and `seed`. The order of the keys does not matter, equal keys land on the same side, and the
/// result is the same on every machine.
#[must_use]
pub fn split<K: AsRef<str>>(keys: &[K], seed: u64, hold_out: HoldOut) -> Split {
    let hash = |key: &str| {
        let mut hasher = blake3::Hasher::new_derive_key("bifocal-data hold-out split v1");
        hasher.update(&seed.to_le_bytes()).update(key.as_bytes());
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_be_bytes(first)
    };
    // the key breaks ties, so that the limit is exact even for equal hashes
    let ranks: Vec<(u64, &str)> = keys.iter().map(|k| (hash(k.as_ref()), k.as_ref())).collect();
    // everything below the limit is held back; no limit holds back everything
    let limit: Option<(u64, &str)> = match hold_out {
        HoldOut::Fraction(f) if f >= 1.0 => None,
        // the cast truncates, and turns NaN into 0
        HoldOut::Fraction(f) => Some(((f.max(0.0) * 2f64.powi(64)) as u64, "")),
        HoldOut::Count(n) => {
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.get(n).copied()
        }
    };
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (i, rank) in ranks.iter().enumerate() {
        if limit.is_none_or(|limit| *rank < limit) {
            held_out.push(i)
        } else {
            train.push(i)
        }
    }
    Split { train, held_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("images/{i}.jpg")).collect()
    }

    #[test]
    fn counts_are_exact_and_sides_complete() {
        let keys = keys(1000);
        for n in [0, 1, 200, 999, 1000, 5000] {
            let s = split(&keys, 7, HoldOut::Count(n));
            assert_eq!(s.held_out.len(), n.min(1000));
            let mut all = [s.train, s.held_out].concat();
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_same_keys_whatever_the_order() {
        let forward = keys(500);
        let backward: Vec<String> = forward.iter().rev().cloned().collect();
        for how in [HoldOut::Count(100), HoldOut::Fraction(0.2)] {
            let mut a: Vec<&String> = split(&forward, 1, how).held_out.iter().map(|&i| &forward[i]).collect();
            let mut b: Vec<&String> = split(&backward, 1, how)
                .held_out
                .iter()
                .map(|&i| &backward[i])
                .collect();
            a.sort();
            b.sort();
            assert_eq!(a, b);
            assert_ne!(split(&forward, 1, how), split(&forward, 2, how));
        }
    }

    #[test]
    fn a_fraction_does_not_move_when_data_is_added() {
        let (small, large) = (keys(1000), keys(3000));
        let a = split(&small, 3, HoldOut::Fraction(0.3)).held_out;
        let b: Vec<usize> = split(&large, 3, HoldOut::Fraction(0.3))
            .held_out
            .into_iter()
            .filter(|&i| i < 1000)
            .collect();
        assert_eq!(a, b);
        // 300 expected, standard deviation 14.5
        assert!((240..=360).contains(&a.len()), "{}", a.len());
        assert!(split(&small, 3, HoldOut::Fraction(0.0)).held_out.is_empty());
        assert!(split(&small, 3, HoldOut::Fraction(1.0)).train.is_empty());
        assert!(split(&small, 3, HoldOut::Fraction(f64::NAN)).held_out.is_empty());
    }

    #[test]
    fn equal_keys_stay_together() {
        let keys = ["a", "b", "a", "c", "b", "a"];
        for n in 0..4 {
            let s = split(&keys, 5, HoldOut::Count(n));
            let held: std::collections::BTreeSet<_> = s.held_out.iter().map(|&i| keys[i]).collect();
            let train: std::collections::BTreeSet<_> = s.train.iter().map(|&i| keys[i]).collect();
            assert_eq!(held.len(), n);
            assert!(held.is_disjoint(&train));
        }
    }

    #[test]
    fn the_choice_never_changes_between_versions() {
        let s = split(&keys(20), 42, HoldOut::Count(5));
        assert_eq!(s.held_out, FIXED);
    }

    /// Written down when the function was written; a change makes published results incomparable.
    const FIXED: [usize; 5] = [1, 3, 5, 8, 14];
}
