//! What a reconstruction is judged by once the frozen autoencoder has made a picture of it: pixels, features, and a discriminator that learns beside it
//! (LlamaGen's `tokenizer_image/vq_loss.py`).

use std::path::PathBuf;

use bifocal_models::bundle::{Located, locate};
use bifocal_models::open::open_vision;
use bifocal_models::vision::VisionTower;
use bifocal_models::vq::Tiny;
use bifocal_nn::layers::Pictures;
use bifocal_nn::{Tensor, params};

use super::perceptual::Perceptual;
use crate::recipe::{VqLoss, VqRecipe};
use crate::train::TrainError;

/// The frozen parts of the losses.
#[derive(Debug)]
pub(super) struct Pixels {
    tiny: Tiny,
    perceptual: Option<Perceptual>,
    weights: VqLoss,
}

/// Windows as they should be, and as they came out; in −1…1.
pub(super) struct Seen {
    pub real: Pictures,
    pub made: Pictures,
}

impl Pixels {
    /// `None` when the recipe judges latents alone.
    pub fn open(recipe: &VqRecipe, tiny: &Tiny) -> Result<Option<(Self, String)>, TrainError> {
        let weights = recipe.loss.clone();
        if !weights.sees() {
            return Ok(None);
        }
        let mut fingerprint = String::new();
        let perceptual = match weights.perceptual > 0.0 {
            true => {
                let (eye, of) = eye(&weights.perceptual_model)?;
                fingerprint = of;
                Some(eye)
            }
            false => None,
        };
        let pixels = Self {
            tiny: params::set_trainable(tiny.clone(), |_| false),
            perceptual,
            weights,
        };
        Ok(Some((pixels, fingerprint)))
    }

    /// What the autoencoder makes of latents, and of what should have been them.
    pub fn see(&self, made: &Pictures, real: &Pictures) -> Seen {
        let picture = |z: &Pictures| {
            let x = self.tiny.decode(z);
            x.with(x.x.clone() * 2.0 - 1.0)
        };
        let real = picture(real);
        Seen {
            made: picture(made),
            real: real.with(real.x.clone().detach()),
        }
    }

    /// Terms by name, with their weights.
    pub fn terms(&self, seen: &Seen) -> Vec<(&'static str, Tensor<1>, f32)> {
        let mut terms = Vec::new();
        if self.weights.pixels > 0.0 {
            let squares = (seen.made.x.clone() - seen.real.x.clone()).powi_scalar(2).mean();
            terms.push(("pixels", squares, self.weights.pixels));
        }
        if let Some(perceptual) = &self.perceptual {
            let distance = perceptual.distance(&seen.made, &seen.real);
            terms.push(("perceptual", distance, self.weights.perceptual));
        }
        terms
    }
}

/// The network that looks at features, and the fingerprint of its weights.
fn eye(name: &str) -> Result<(Perceptual, String), TrainError> {
    let wrong = |path: PathBuf, message: String| TrainError::Data { path, message };
    let folder = match locate(name, None) {
        Located::At(folder) => folder,
        Located::Nowhere(places) => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            let message = format!(
                "loss.perceptual_model is not there (looked for {}); scripts/fetch-encoders.py brings it",
                places.join(", ")
            );
            return Err(wrong(PathBuf::from(name), message));
        }
    };
    let encoder = open_vision(&folder).map_err(|e| wrong(folder.clone(), e.to_string()))?;
    let VisionTower::EfficientNetLite(tower) = encoder.tower else {
        let message =
            "loss.perceptual_model must be an EfficientNet-Lite, whose features at several resolutions are compared";
        return Err(wrong(folder, message.to_owned()));
    };
    let (mean, std) = (encoder.preprocess.mean, encoder.preprocess.std);
    Ok((Perceptual::new(tower, mean, std), encoder.fingerprint))
}
