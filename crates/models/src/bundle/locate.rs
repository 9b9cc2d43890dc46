//! Where a pretrained tower is.

use std::path::{Path, PathBuf};

use crate::hub::{self, HubCache, HubName};

/// The variable that names a folder of pretrained towers.
const VARIABLE: &str = "BIFOCAL_MODELS";

/// The outcome of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// Here it is.
    At(PathBuf),
    /// Not in any of these places.
    Nowhere(Vec<PathBuf>),
}

/// Looks for a tower: relative to `base` (a bundle's folder), as the path stands, and in `$BIFOCAL_MODELS` under the path without a
/// leading `models/` and under its last part.
///
/// A name of the hub (`hf:org/name`) is looked for in the cache of the hub's client.
pub fn locate(name: &str, base: Option<&Path>) -> Located {
    if name.starts_with(hub::SCHEME) {
        return in_cache(name);
    }
    let variable = std::env::var_os(VARIABLE).map(PathBuf::from);
    locate_in(name, base, variable.as_deref())
}

fn in_cache(name: &str) -> Located {
    let (Ok(hub), Some(cache)) = (name.parse::<HubName>(), HubCache::of_environment()) else {
        return Located::Nowhere(vec![PathBuf::from(name)]);
    };
    match cache.snapshot(&hub) {
        Some(snapshot) => Located::At(snapshot),
        None => Located::Nowhere(vec![cache.folder(&hub)]),
    }
}

fn locate_in(name: &str, base: Option<&Path>, models: Option<&Path>) -> Located {
    let path = Path::new(name);
    let mut places: Vec<PathBuf> = base.map(|base| base.join(path)).into_iter().collect();
    places.push(path.to_owned());
    if let Some(models) = models {
        if let Ok(below) = path.strip_prefix("models") {
            places.push(models.join(below));
        }
        if let Some(last) = path.file_name() {
            places.push(models.join(last));
        }
    }
    places.dedup();
    match places.iter().find(|place| place.exists()) {
        Some(place) => Located::At(place.clone()),
        None => Located::Nowhere(places),
    }
}

/// Places as a list for messages.
pub(super) fn list(places: &[PathBuf]) -> String {
    let all: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_comes_first_and_the_variable_last() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (bundle, models) = (dir.path().join("bundle"), dir.path().join("towers"));
        std::fs::create_dir_all(models.join("minilm")).expect("create");
        let find = || locate_in("models/minilm", Some(&bundle), Some(&models));
        assert_eq!(find(), Located::At(models.join("minilm")));
        std::fs::create_dir_all(bundle.join("models/minilm")).expect("create");
        assert_eq!(find(), Located::At(bundle.join("models/minilm")));
        let absolute = models.join("minilm");
        let found = locate_in(&absolute.display().to_string(), Some(&bundle), None);
        assert_eq!(found, Located::At(absolute));
    }

    #[test]
    fn what_is_nowhere_is_told_with_the_places() {
        let found = locate_in("models/gone", Some(Path::new("/b")), Some(Path::new("/m")));
        let Located::Nowhere(places) = found else {
            panic!("{found:?}");
        };
        assert_eq!(list(&places), "/b/models/gone, models/gone, /m/gone");
    }
}
