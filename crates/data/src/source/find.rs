//! A picture by the path that names it: a file, or the path of a shard with the rest of the key behind it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::picture::Facts;
use super::{Dataset, ImageSource, Kind};

/// The archive or table that a path leads into by its name: of `a/b.tar/c` that is `a/b.tar`. It need not be there.
#[must_use]
pub fn shard_of(path: &Path) -> Option<&Path> {
    let mut above = path.ancestors().skip(1);
    above.find(|p| matches!(Kind::of(p), Some(Kind::Tar | Kind::Parquet)) && !p.is_dir())
}

/// Finds pictures; the shard that was asked for last is kept open, so that neighbours are found without reading it again.
#[derive(Default)]
pub struct Finder {
    last: Option<(PathBuf, Facts, HashMap<String, ImageSource>)>,
}

impl Finder {
    /// The picture at the path of a file, or at that of a shard followed by `/` and what [`Sample::key`](super::Sample::key) has behind the
    /// shard's own name. `None` when it is not there.
    pub fn find(&mut self, path: &Path) -> Option<ImageSource> {
        if path.is_file() {
            return Some(path.into());
        }
        let shard = shard_of(path)?;
        let inside = path.strip_prefix(shard.parent()?).ok()?.to_str()?;
        let facts = ImageSource::from(shard).facts()?;
        let known = |last: &(PathBuf, Facts, _)| last.0 == shard && last.1 == facts;
        if !self.last.as_ref().is_some_and(known) {
            let samples = Dataset::open(shard).ok()?.samples;
            let pictures = samples.into_iter().map(|sample| (sample.key, sample.image)).collect();
            self.last = Some((shard.to_owned(), facts, pictures));
        }
        let pictures = &self.last.as_ref()?.2;
        pictures.get(inside).filter(|image| !image.is_none()).cloned()
    }
}
