//! Names as training programs wrap them, and as the model itself calls them.

use std::collections::BTreeMap;
use std::path::Path;

use super::{HostTensor, StoredRows, TensorSource, WeightsError};

/// Keys under which training programs keep a model's weights, beside an optimizer's state and other things.
const WRAPPERS: [&str; 3] = ["state_dict.", "model_state_dict.", "model."];
/// What data-parallel and compiled modules put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// A source under other names.
struct Renamed<'a> {
    inner: Box<dyn TensorSource + 'a>,
    /// New name → name in `inner`.
    names: BTreeMap<String, String>,
}

/// Takes the wrapping off: of `{"state_dict": …, "optimizer": …}` only the former is left, and `module.` is cut off if every name
/// begins with it.
pub(super) fn unwrap(inner: Box<dyn TensorSource>) -> Box<dyn TensorSource> {
    let all = inner.names();
    let wrapper = WRAPPERS[..2]
        .iter()
        .find(|wrapper| all.iter().any(|name| name.starts_with(**wrapper)))
        // a language model's own names begin with "model." too; as a wrapper there is something else beside it
        .or_else(|| WRAPPERS[2..].iter().find(|wrapper| wraps(&all, wrapper)));
    let cut = |name: &String| match wrapper {
        Some(wrapper) => name.strip_prefix(wrapper).map(str::to_owned),
        None => Some(name.clone()),
    };
    let mut names: BTreeMap<String, String> = all
        .iter()
        .filter_map(|name| cut(name).map(|new| (new, name.clone())))
        .collect();
    let unwrapped = wrapper.is_some();
    let mut shorter = false;
    while let Some(prefix) = PREFIXES
        .iter()
        .find(|prefix| !names.is_empty() && names.keys().all(|name| name.starts_with(**prefix)))
    {
        names = names
            .into_iter()
            .map(|(new, name)| (new[prefix.len()..].to_owned(), name))
            .collect();
        shorter = true;
    }
    if unwrapped || shorter {
        Box::new(Renamed { inner, names })
    } else {
        inner
    }
}

/// What lies below a prefix, without it.
pub(crate) fn below<'a>(inner: Box<dyn TensorSource + 'a>, prefix: &str) -> Box<dyn TensorSource + 'a> {
    if prefix.is_empty() {
        return inner;
    }
    let all = inner.names().into_iter();
    let names = all
        .filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), name.clone())))
        .collect();
    Box::new(Renamed { inner, names })
}

/// Whether `{"model": …, "optimizer": …}` is what the names come from.
fn wraps(names: &[String], wrapper: &str) -> bool {
    let other = |name: &String| name.starts_with("optimizer.") || name.starts_with("optimizer_state_dict.");
    names.iter().any(|name| name.starts_with(wrapper)) && names.iter().any(other)
}

impl Renamed<'_> {
    fn inside(&self, name: &str) -> Result<&str, WeightsError> {
        match self.names.get(name) {
            Some(name) => Ok(name),
            None => Err(WeightsError::missing(
                self.path(),
                name,
                self.names.keys().map(String::as_str),
            )),
        }
    }
}

impl TensorSource for Renamed<'_> {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.inner.shape(self.names.get(name)?)
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.inner.load(self.inside(name)?)
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        self.inner.stored_rows(self.inside(name)?)
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.inner.stored_as(self.names.get(name)?)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        let tensor = HostTensor {
            shape: vec![1],
            data: vec![1.0],
        };
        let source: BTreeMap<String, HostTensor> = names.iter().map(|n| ((*n).to_owned(), tensor.clone())).collect();
        let unwrapped = unwrap(Box::new(source));
        for name in unwrapped.names() {
            assert_eq!(unwrapped.load(&name).unwrap(), tensor);
            assert_eq!(unwrapped.shape(&name), Some(vec![1]));
        }
        assert!(unwrapped.load("nothing").is_err());
        unwrapped.names()
    }

    #[test]
    fn wrapping_comes_off_and_names_that_only_look_like_it_stay() {
        assert_eq!(
            names(&["state_dict.module.a.w", "state_dict.module.b", "optimizer.state.0"]),
            ["a.w", "b"]
        );
        assert_eq!(names(&["module.module.a", "module.module.b"]), ["a", "b"]);
        assert_eq!(names(&["module._orig_mod.a"]), ["a"]);
        assert_eq!(names(&["model.a", "optimizer.state.0.exp_avg"]), ["a"]);
        assert_eq!(
            names(&["model.layers.0", "lm_head.weight"]),
            ["lm_head.weight", "model.layers.0"]
        );
        assert_eq!(names(&["module.a", "logit_scale"]), ["logit_scale", "module.a"]);
    }
}
