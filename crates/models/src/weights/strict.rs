//! Loading with every tensor accounted for: what is missing, misshapen or unknown is told all at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{HostTensor, Misfit, StoredRows, TensorSource, WeightsError};

/// What no tower needs: counters, masks, what stands for a hidden patch while one trains, and index tables that are computed anyway, and what belongs to the pair of towers.
const HARMLESS: [&str; 10] = [
    ".position_ids",
    ".mask_token",
    ".num_batches_tracked",
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
    "text.attn_mask",
];

/// Values that stand in for missing tensors while the others are looked at: so many at most.
const MAX_STAND_IN: usize = 1 << 26;

/// Runs `load` on a source, and then checks that it found all that it asked for, and asked for all that is there.
///
/// Tensors in `unread` may be left: a name, the beginning of names (`"pooler."`), or their end (`".position_ids"`).
///
/// # Errors
/// [`WeightsError::Mismatch`] lists every tensor that is missing, has another shape, or was not asked for; otherwise what `load` gives.
pub fn strict<T, E: From<WeightsError>>(
    source: &dyn TensorSource,
    unread: &[&str],
    load: impl FnOnce(&dyn TensorSource) -> Result<T, E>,
) -> Result<T, E> {
    let watched = Watched {
        inner: source,
        seen: Mutex::default(),
    };
    let loaded = load(&watched);
    let seen = watched.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let fits = seen.missing.is_empty() && seen.misshapen.is_empty();
    if fits && loaded.is_err() {
        return loaded;
    }
    let harmless = |name: &str| {
        HARMLESS.iter().chain(unread).any(|pattern| {
            name == *pattern
                || (pattern.ends_with('.') && name.starts_with(pattern))
                || (pattern.starts_with('.') && name.ends_with(pattern))
        })
    };
    // a loader that gave up has not asked for the rest
    let unexpected: Vec<String> = if loaded.is_ok() {
        let names = source.names().into_iter();
        names
            .filter(|name| !seen.asked.contains(name) && !harmless(name))
            .collect()
    } else {
        Vec::new()
    };
    if fits && unexpected.is_empty() {
        return loaded;
    }
    let hint = seen.missing.first().map(|name| {
        let names = source.names();
        super::error::similar(name, names.iter().map(String::as_str))
    });
    Err(WeightsError::Mismatch {
        path: source.path().to_owned(),
        misfit: Box::new(Misfit {
            missing: seen.missing,
            hint: hint.unwrap_or_default(),
            misshapen: seen.misshapen,
            unexpected,
        }),
    }
    .into())
}

/// A source that remembers what it was asked for, and stands in for what it does not have.
struct Watched<'a> {
    inner: &'a dyn TensorSource,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    stand_in: usize,
}

impl Watched<'_> {
    fn note<T>(&self, what: impl FnOnce(&mut Seen) -> T) -> T {
        what(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TensorSource for Watched<'_> {
    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.inner.shape(name)
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.note(|seen| seen.asked.insert(name.to_owned()));
        self.inner.load(name)
    }

    fn load_shaped(&self, name: &str, expected: &[usize]) -> Result<HostTensor, WeightsError> {
        self.note(|seen| seen.asked.insert(name.to_owned()));
        let error = match self.inner.load_shaped(name, expected) {
            Err(error) => error,
            loaded => return loaded,
        };
        let values = expected.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let room = self.note(|seen| {
            match &error {
                WeightsError::MissingTensor { .. } => seen.missing.push(name.to_owned()),
                WeightsError::ShapeMismatch { found, .. } => {
                    let what = format!("\"{name}\" has {found:?} for {expected:?}");
                    seen.misshapen.push(what);
                }
                _ => return None,
            }
            let values = values.filter(|n| n.saturating_add(seen.stand_in) <= MAX_STAND_IN)?;
            seen.stand_in += values;
            Some(values)
        });
        match room {
            Some(values) => Ok(HostTensor {
                shape: expected.to_vec(),
                data: vec![0.0; values],
            }),
            None => Err(error),
        }
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        self.note(|seen| seen.asked.insert(name.to_owned()));
        self.inner.stored_rows(name)
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.inner.stored_as(name)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn source() -> BTreeMap<String, HostTensor> {
        let one = |name: &str| {
            let tensor = HostTensor {
                shape: vec![2],
                data: vec![1.0, 2.0],
            };
            (name.to_owned(), tensor)
        };
        ["a.weight", "b.weight", "logit_scale", "x.position_ids", "pooler.weight"]
            .map(one)
            .into()
    }

    fn load(wanted: &[(&str, usize)], unread: &[&str]) -> Result<usize, WeightsError> {
        let all = source();
        strict(&all, unread, |source| {
            let mut n = 0;
            for &(name, size) in wanted {
                n += source.load_shaped(name, &[size])?.data.len();
            }
            Ok(n)
        })
    }

    #[test]
    fn all_that_does_not_fit_is_told_at_once() {
        assert_eq!(load(&[("a.weight", 2), ("b.weight", 2)], &["pooler."]).unwrap(), 4);
        let error = load(&[("c.weight", 2), ("d.weight", 7), ("a.weight", 3)], &[]).unwrap_err();
        let WeightsError::Mismatch { misfit, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(misfit.missing, ["c.weight", "d.weight"]);
        assert_eq!(misfit.misshapen, ["\"a.weight\" has [2] for [3]"]);
        assert_eq!(misfit.unexpected, ["b.weight", "pooler.weight"]);
        let text = error.to_string();
        for part in [
            "\"c.weight\", \"d.weight\"",
            "[2] for [3]",
            "\"b.weight\", \"pooler.weight\"",
        ] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }

    #[test]
    fn what_stands_in_stays_small() {
        let error = load(&[("c", 1 << 40), ("d", 2)], &[]).unwrap_err();
        let WeightsError::Mismatch { misfit, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(
            misfit.missing,
            ["c"],
            "the loader stopped where a stand-in would have been too large"
        );
    }
}
