//! What lies below the paths that were given: pictures in files, in tar shards and in parquet files.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::source::{Dataset, ImageSource, Layout, Sample, expand, shard_of};
use bifocal_search::incremental::Listed;
use bifocal_search::{Metadata, is_key};

use crate::pictures;

/// A path to index: absolute and without links, so that a picture has one key however it is named.
#[derive(Debug, Clone)]
pub struct Root {
    pub path: PathBuf,
    /// One of many that a pattern names: it may be missing, and then its items leave.
    is_optional: bool,
}

/// The paths as they are kept.
///
/// # Errors
/// One that is not there, or a pattern of which none is.
pub fn roots(paths: &[PathBuf]) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    for path in paths {
        let failed = || format!("{} cannot be indexed", path.display());
        let found = path.canonicalize();
        match (found, expand(path)) {
            (Err(_), Some(shards)) if shards.iter().any(|shard| shard.exists()) => {
                for shard in shards {
                    let parent = shard.parent().filter(|p| !p.as_os_str().is_empty());
                    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
                    let name = shard.file_name().with_context(failed)?;
                    let path = shard.canonicalize().or_else(|_| parent.map(|p| p.join(name)));
                    roots.push(Root {
                        path: path.with_context(failed)?,
                        is_optional: true,
                    });
                }
            }
            (found, _) => roots.push(Root {
                path: found.with_context(failed)?,
                is_optional: false,
            }),
        }
    }
    Ok(roots)
}

/// All pictures.
#[derive(Default)]
pub struct Listing {
    /// Keys in the order in which they are read best: that of their datasets.
    pub order: Vec<String>,
    pub samples: HashMap<String, Listable>,
    /// Shards that were read from their beginning to their end.
    whole: HashSet<PathBuf>,
}

/// A sample, and whether its dataset has captions.
pub struct Listable {
    pub sample: Sample,
    pub is_captioned: bool,
}

impl Listing {
    /// Lists everything; `speaks`: says what is left out.
    pub fn read(roots: &[Root], speaks: bool) -> Result<Self> {
        let mut listing = Self::default();
        for root in roots.iter().filter(|root| !root.is_optional || root.path.exists()) {
            let data = match Dataset::open(&root.path) {
                // as a damaged one among the others in a folder
                Err(error) if root.is_optional => {
                    if speaks {
                        eprintln!("left out {}: {error}", root.path.display());
                    }
                    continue;
                }
                opened => opened?,
            };
            if speaks {
                pictures::report_skipped(&data);
            }
            listing.take(data, speaks);
        }
        Ok(listing)
    }

    fn take(&mut self, data: Dataset, speaks: bool) {
        let is_captioned = data.layout == Layout::Captions;
        // "x.tar", or "x.tar: from byte 512 on"
        let names = data.skipped.iter().filter_map(|s| s.what.split(": ").next());
        let damaged: HashSet<PathBuf> = names.map(|name| data.root.join(name)).collect();
        for sample in data.samples {
            let path = match &sample.image {
                ImageSource::None => {
                    if speaks {
                        eprintln!("left out {}: only pictures can be indexed yet", sample.key);
                    }
                    continue;
                }
                ImageSource::File(path) => path.clone(),
                _ => data.root.join(&sample.key),
            };
            let Some(key) = path.to_str().filter(|key| is_key(key)) else {
                if speaks {
                    eprintln!("left out {}: its name is too long or not UTF-8", path.display());
                }
                continue;
            };
            if sample.image.file().is_none()
                && let Some(shard) = sample.image.container()
                && !damaged.contains(shard)
                && !self.whole.contains(shard)
            {
                self.whole.insert(shard.to_owned());
            }
            let listable = Listable { sample, is_captioned };
            if self.samples.insert(key.to_owned(), listable).is_none() {
                self.order.push(key.to_owned());
            }
        }
    }

    /// What is known of the files, without reading them. One that vanished since it was listed is simply not there.
    pub fn facts(&self) -> Vec<Listed> {
        let one = |key: &String| {
            let facts = self.samples.get(key)?.sample.image.facts()?;
            Some(Listed {
                key: key.clone(),
                size: facts.size,
                modified_ns: facts.modified_ns,
            })
        };
        self.order.iter().filter_map(one).collect()
    }

    /// Another number when captions or labels are others.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for key in &self.order {
            if let Some(Listable { sample, .. }) = self.samples.get(key) {
                (key, &sample.captions, &sample.label).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Whether an item of that key is gone when it is not listed. Those of a shard that is there and could not be read whole, or was not
    /// read at all, are not.
    pub fn is_in_scope(&self, roots: &[Root], key: &str) -> bool {
        let path = Path::new(key);
        let is_below = roots.iter().any(|root| path.starts_with(&root.path));
        is_below && shard_of(path).is_none_or(|shard| self.whole.contains(shard) || !shard.exists())
    }
}

/// What is known of a picture besides its pixels.
pub fn metadata(sample: &Sample) -> Metadata {
    let mut metadata = Metadata::new();
    if let Some(label) = &sample.label {
        metadata.insert("label".to_owned(), label.as_str().into());
    }
    if !sample.captions.is_empty() {
        metadata.insert("captions".to_owned(), serde_json::json!(sample.captions));
    }
    metadata
}
