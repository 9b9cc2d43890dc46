//! What of a picture a frozen tower's cache keeps.

use bifocal_data::cache::FeatureSpec;
use bifocal_models::connector::Tap;
use bifocal_models::open::{OpenError, VisionEncoder};

use super::features::Features;

/// Which rows of a picture are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading<'a> {
    /// Its embedding.
    Whole,
    /// The patches at a place of the tower.
    Patches(&'a Tap),
    /// All tokens after the final norm.
    Tokens,
    /// The codes that the tower would read. They are as whole numbers in f32, which is exact up to 2²⁴.
    Codes,
}

impl Reading<'_> {
    /// What tells rows apart that different towers, or places of them, make.
    pub fn spec(self, features: &Features<'_>, encoder: &VisionEncoder) -> FeatureSpec {
        let tower = features.spec().with("tower", &encoder.fingerprint);
        let spec = match self {
            Self::Whole => tower,
            Self::Patches(tap) => tower.with("tap", format!("{} {:?}", tap.layer, tap.select)),
            Self::Tokens => tower.with("tokens", "after the final norm"),
            // they do not depend on the tower, nor on what it multiplies in
            Self::Codes => {
                let codec = encoder.tower.token_encoder().and_then(|tower| tower.codec());
                FeatureSpec::new().with("codes", codec.map_or_else(String::new, |codec| codec.fingerprint()))
            }
        };
        spec.with("preprocess", encoder.preprocess.fingerprint())
    }

    /// Rows of preprocessed pictures, one after the other.
    pub fn rows(self, encoder: &VisionEncoder, pixels: &[f32], n: usize) -> Result<Vec<f32>, OpenError> {
        match self {
            Self::Whole => encoder.embed(pixels, n),
            Self::Patches(tap) => Ok(encoder.tapped(tap, pixels, n)?.0),
            Self::Tokens => encoder.features(pixels, n),
            Self::Codes => Ok(encoder.codes(pixels, n)?.into_iter().map(|code| code as f32).collect()),
        }
    }
}
