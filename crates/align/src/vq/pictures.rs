//! The pictures of a recipe, and the latents that the frozen autoencoder makes of them, once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bifocal_data::cache::{Computed, Dtype, FeatureSpec, FeatureStore, FillError, FillOptions, ItemKey, fill};
use bifocal_data::split::{HoldOut, split};
use bifocal_data::{Dataset, ImageSource, Limits, Preprocess, load_images};
use bifocal_models::bundle::{Located, locate};
use bifocal_models::vq::Tiny;
use bifocal_models::weights;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Pictures;
use bifocal_nn::precision;
use serde::{Deserialize, Serialize};

use crate::random::{SAMPLE, mix};
use crate::recipe::VqRecipe;
use crate::train::corpus::HOLDOUT_SEED;
use crate::train::draw::{Draw, Share};
use crate::train::features;
use crate::train::{Progress, TrainError};

/// Pictures whose latents are computed at once: their first layers have 64 numbers a pixel.
const AT_ONCE: usize = 4;

/// A picture that is not learnt from, as `holdout.json` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOut {
    /// As the recipe names the source.
    pub source: String,
    /// Key of the picture in it.
    pub image: String,
}

/// Which pictures there are, before any is read.
pub(super) struct Listing {
    /// All pictures: of the sources, one after the other, those that are learnt from and those that are held out.
    pub images: Vec<ImageSource>,
    /// Weight of a source and its places in `images`.
    pub train: Vec<(f64, Vec<usize>)>,
    /// Places in `images`.
    pub held: Vec<usize>,
    pub held_out: Vec<HeldOut>,
    pub unusable: Vec<String>,
}

impl Listing {
    pub fn open(recipe: &VqRecipe) -> Result<Self, TrainError> {
        let mut all = Self {
            images: Vec::new(),
            train: Vec::new(),
            held: Vec::new(),
            held_out: Vec::new(),
            unusable: Vec::new(),
        };
        for source in &recipe.data.sources {
            let path = Path::new(&source.path);
            let data = Dataset::open(path)?;
            let told = data.skipped.iter().map(|skipped| format!("{}: {skipped}", source.path));
            all.unusable.extend(told);
            let keys: Vec<&str> = data.samples.iter().map(|s| s.key.as_str()).collect();
            let how = match source.holdout {
                share if share < 1.0 => HoldOut::Fraction(share),
                count => HoldOut::Count(count as usize),
            };
            let held: BTreeSet<usize> = split(&keys, HOLDOUT_SEED, how).held_out.into_iter().collect();
            let mut rows = Vec::new();
            for (i, sample) in data.samples.into_iter().enumerate() {
                if sample.image == ImageSource::None {
                    continue;
                }
                let place = all.images.len();
                all.images.push(sample.image);
                if held.contains(&i) {
                    all.held.push(place);
                    all.held_out.push(HeldOut {
                        source: source.path.clone(),
                        image: sample.key,
                    });
                } else {
                    rows.push(place);
                }
            }
            all.train.push((source.weight, rows));
        }
        match all.train.iter().any(|(weight, rows)| *weight > 0.0 && !rows.is_empty()) {
            true => Ok(all),
            false => Err(TrainError::Data {
                path: PathBuf::from(&recipe.data.sources[0].path),
                message: "no pictures are left to learn from; lower data.sources.holdout, or add a source".to_owned(),
            }),
        }
    }

    /// Pictures that are learnt from.
    pub fn learnt(&self) -> usize {
        self.train.iter().map(|(_, rows)| rows.len()).sum()
    }
}

/// The files of the frozen autoencoder, and what they are.
pub(super) struct Frozen {
    pub tiny: Tiny,
    pub files: [PathBuf; 2],
    pub fingerprint: String,
}

impl Frozen {
    pub fn open(recipe: &VqRecipe) -> Result<Self, TrainError> {
        let name = &recipe.autoencoder.model;
        let folder = match locate(name, None) {
            Located::At(folder) => folder,
            Located::Nowhere(places) => {
                let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
                return Err(TrainError::Data {
                    path: PathBuf::from(name),
                    message: format!(
                        "autoencoder.model is not there (looked for {}); put taef2_encoder.safetensors and taef2_decoder.safetensors into a \
                         folder, from https://github.com/madebyollin/taesd, and name it",
                        places.join(", ")
                    ),
                });
            }
        };
        let files = Tiny::files(&folder).map_err(TrainError::io(&folder))?;
        let Some(files) = files else {
            return Err(TrainError::Data {
                path: folder,
                message:
                    "autoencoder.model must be a folder with one …encoder.safetensors and one …decoder.safetensors"
                        .to_owned(),
            });
        };
        let unreadable = |path: &Path, message: String| TrainError::Data {
            path: path.to_owned(),
            message,
        };
        let mut fingerprint = String::new();
        for file in &files {
            fingerprint += &weights::fingerprint(file).map_err(|e| unreadable(file, e.to_string()))?;
        }
        Ok(Self {
            tiny: Tiny::open(&files).map_err(|e| unreadable(&folder, e.to_string()))?,
            files,
            fingerprint,
        })
    }
}

/// Latents of all pictures that can be read.
pub(super) struct Latent {
    /// `[pictures, side, side, channels]`.
    values: Vec<f32>,
    /// Positions on a side of a picture.
    side: usize,
    channels: usize,
    /// Places in `values`.
    pub train: Vec<usize>,
    pub held: Vec<usize>,
    order: Draw,
    seed: u64,
    /// Of the pictures' content, the autoencoder, and which of them is learnt from.
    pub fingerprint: String,
}

impl Latent {
    /// Takes latents from the cache, or computes them.
    pub fn open(
        recipe: &VqRecipe,
        listing: &Listing,
        frozen: &Frozen,
        progress: &mut dyn Progress,
    ) -> Result<Self, TrainError> {
        let preprocess = Preprocess {
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::clip(recipe.data.size)
        };
        let (side, channels) = (recipe.data.size as usize / Tiny::FACTOR, frozen.tiny.channels());
        let precision = precision::Precision::from(recipe.compute.precision).name();
        let spec = FeatureSpec::new()
            .with("autoencoder", &frozen.fingerprint)
            .with("precision", precision)
            .with("preprocess", preprocess.fingerprint());
        let spec = features::there(spec);
        let dim = side * side * channels;
        let mut store = FeatureStore::open(Path::new(&recipe.run.cache), &spec, dim, Dtype::F32)?;
        let (mut places, mut keys) = (Vec::new(), Vec::new());
        for (i, key) in ItemKey::of_images(&listing.images, &Limits::default())
            .into_iter()
            .enumerate()
        {
            match key {
                Ok(key) => {
                    places.push(i);
                    keys.push(key);
                }
                Err(error) => progress.warning(&format!("{} is left out: {error}", listing.images[i])),
            }
        }
        let shared = std::cell::RefCell::new(progress);
        let compute = |wanted: &[usize]| {
            if shared.borrow_mut().stop() {
                return Err(TrainError::Stopped {
                    what: "pictures".to_owned(),
                });
            }
            let images: Vec<&ImageSource> = wanted.iter().map(|&k| &listing.images[places[k]]).collect();
            let failed = |message: String| TrainError::Features {
                what: "pictures".to_owned(),
                message,
            };
            let loaded = load_images(&images, &preprocess, &Limits::default()).map_err(|e| failed(e.to_string()))?;
            for bad in &loaded.bad {
                let message = format!("{} is left out: {}", bad.image, bad.error);
                shared.borrow_mut().warning(&message);
            }
            let pixels = side * Tiny::FACTOR;
            let n = loaded.good.len();
            let rows = match n {
                0 => Vec::new(),
                n => precision::scope(recipe.compute.precision.into(), || {
                    values(
                        frozen
                            .tiny
                            .encode(&Pictures {
                                x: tensor(loaded.pixels, [n * pixels * pixels, 3]),
                                n,
                                size: [pixels; 2],
                            })
                            .x,
                    )
                }),
            };
            Ok(Computed {
                rows,
                failed: loaded.bad.iter().map(|bad| bad.index).collect(),
            })
        };
        let tell = |done, total| shared.borrow_mut().features("pictures", done, total);
        let filled = fill(&mut store, &keys, &FillOptions::batch(AT_ONCE), compute, tell).map_err(|e| match e {
            FillError::Compute(error) => error,
            FillError::Cache(error) => error.into(),
        })?;
        let failed: BTreeSet<ItemKey> = filled.failed.iter().map(|&k| keys[k]).collect();
        let (places, keys): (Vec<usize>, Vec<ItemKey>) = places
            .into_iter()
            .zip(keys)
            .filter(|(_, key)| !failed.contains(key))
            .unzip();
        let values = store.gather(&keys)?;
        // where a picture's latents are
        let mut at = vec![None; listing.images.len()];
        places
            .iter()
            .enumerate()
            .for_each(|(row, &place)| at[place] = Some(row));
        let rows = |places: &[usize]| places.iter().filter_map(|&p| at[p]).collect::<Vec<usize>>();
        let shares: Vec<Share> = listing
            .train
            .iter()
            .map(|(weight, places)| Share {
                rows: rows(places),
                weight: *weight,
            })
            .collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(frozen.fingerprint.as_bytes());
        for share in &shares {
            hasher.update(&(share.rows.len() as u64).to_le_bytes());
            for &row in &share.rows {
                hasher.update(keys[row].as_bytes());
            }
        }
        let train: Vec<usize> = shares.iter().flat_map(|share| share.rows.iter().copied()).collect();
        let order = Draw::new(recipe.seed, recipe.data.batch, shares);
        if order.epoch_length() == 0 {
            return Err(TrainError::Data {
                path: PathBuf::from(&recipe.data.sources[0].path),
                message: "none of the pictures can be read".to_owned(),
            });
        }
        Ok(Self {
            values,
            side,
            channels,
            held: rows(&listing.held),
            train,
            order,
            seed: recipe.seed,
            fingerprint: hasher.finalize().to_hex().to_string(),
        })
    }

    /// All latents of a picture, `[side·side, channels]`.
    pub fn whole(&self, row: usize) -> &[f32] {
        let size = self.side * self.side * self.channels;
        &self.values[row * size..(row + 1) * size]
    }

    /// Whole pictures.
    pub fn pictures(&self, rows: &[usize]) -> Pictures {
        let values = rows.iter().flat_map(|&row| self.whole(row)).copied().collect();
        Pictures {
            x: tensor(values, [rows.len() * self.side * self.side, self.channels]),
            n: rows.len(),
            size: [self.side; 2],
        }
    }

    /// The windows of a step, of so many positions on a side.
    pub fn windows(&mut self, step: u64, side: usize) -> (Pictures, Vec<usize>) {
        let drawn = self.order.step(step);
        let mut values = Vec::with_capacity(drawn.len() * side * side * self.channels);
        for &(sample, row) in &drawn {
            let mut rng = Rng::new(mix(self.seed, SAMPLE, sample));
            let room = self.side - side + 1;
            let (top, left) = (rng.below(room), rng.below(room));
            let whole = self.whole(row);
            for y in top..top + side {
                let from = (y * self.side + left) * self.channels;
                values.extend_from_slice(&whole[from..from + side * self.channels]);
            }
        }
        let pictures = Pictures {
            x: tensor(values, [drawn.len() * side * side, self.channels]),
            n: drawn.len(),
            size: [side; 2],
        };
        (pictures, drawn.into_iter().map(|(_, row)| row).collect())
    }
}
