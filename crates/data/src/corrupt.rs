//! Pictures made worse on purpose, to see how much a model depends on good ones.
//!
//! Kinds and strengths are those of ImageNet-C (Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
//! perturbations"): Gaussian noise, Gaussian blur (its extra set), brightness, JPEG, five levels each. There pictures have 224 pixels a side before they are
//! corrupted; here the shorter side is scaled down to [`SIDE`] first, so that a level means the same for photos and for models of all sizes. Noise is drawn by
//! the picture's content: the same picture always gets the same.

use std::fmt;
use std::str::FromStr;

use crate::decode::decode;
use crate::random::Random;
use crate::thumbnail::encode;
use crate::transform::{Filter, resize};
use crate::{ItemKey, Limits, RgbImage};

/// Pixels of the shorter side before a corruption; smaller pictures stay as they are.
pub const SIDE: u32 = 256;
/// Levels of every kind, from 1.
pub const LEVELS: u8 = 5;

/// What is done to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A Gaussian filter; σ of 1, 2, 3, 4, 6 pixels.
    Blur,
    /// Independent Gaussian noise on every number; σ of 0.08, 0.12, 0.18, 0.26, 0.38 of the range.
    Noise,
    /// Stored as JPEG of quality 25, 18, 15, 10, 7.
    Jpeg,
    /// The value of HSV grows by 0.1, 0.2, 0.3, 0.4, 0.5 of the range.
    Brightness,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Blur, Self::Noise, Self::Jpeg, Self::Brightness];

    /// What it is called on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blur => "blur",
            Self::Noise => "noise",
            Self::Jpeg => "jpeg",
            Self::Brightness => "brightness",
        }
    }
}

/// A kind at a level; written `blur-3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Corruption {
    kind: Kind,
    level: u8,
}

/// A corruption that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no corruption {0:?}: give blur, noise, jpeg or brightness with a level from 1 to 5, for example blur-3"
)]
pub struct UnknownCorruption(String);

impl Corruption {
    /// `None` for a level that does not exist.
    #[must_use]
    pub fn new(kind: Kind, level: u8) -> Option<Self> {
        (1..=LEVELS).contains(&level).then_some(Self { kind, level })
    }

    /// Its kind.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// Its level, from 1 to [`LEVELS`].
    #[must_use]
    pub fn level(self) -> u8 {
        self.level
    }

    /// The corrupted picture, its shorter side at most [`SIDE`]. `key` is that of the picture's file and decides the noise.
    ///
    /// `None` only when a picture of this shape cannot be scaled or stored.
    #[must_use]
    pub fn apply(self, picture: RgbImage, key: &ItemKey) -> Option<RgbImage> {
        let picture = scaled(picture)?;
        let strength = |of: [f32; LEVELS as usize]| of[usize::from(self.level) - 1];
        match self.kind {
            Kind::Blur => blur(&picture, strength([1.0, 2.0, 3.0, 4.0, 6.0])),
            Kind::Noise => noise(picture, strength([0.08, 0.12, 0.18, 0.26, 0.38]), key),
            Kind::Jpeg => {
                let quality = [25, 18, 15, 10, 7][usize::from(self.level) - 1];
                decode(&encode(&picture, quality)?, &Limits::default()).ok()
            }
            Kind::Brightness => brighter(picture, strength([0.1, 0.2, 0.3, 0.4, 0.5])),
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.name(), self.level)
    }
}

impl FromStr for Corruption {
    type Err = UnknownCorruption;

    fn from_str(text: &str) -> Result<Self, UnknownCorruption> {
        let unknown = || UnknownCorruption(text.chars().take(60).collect());
        let (name, level) = text.rsplit_once('-').ok_or_else(unknown)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(unknown)?;
        level
            .parse()
            .ok()
            .and_then(|level| Self::new(kind, level))
            .ok_or_else(unknown)
    }
}

fn scaled(picture: RgbImage) -> Option<RgbImage> {
    let shorter = picture.width().min(picture.height());
    if shorter <= SIDE {
        return Some(picture);
    }
    let side = |length: u32| (u64::from(length) * u64::from(SIDE) / u64::from(shorter)).max(1) as u32;
    resize(&picture, side(picture.width()), side(picture.height()), Filter::Bicubic)
}

fn byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// Lines first, then columns; at an edge its pixels go on. The filter ends at 4 σ, as scipy's does.
fn blur(picture: &RgbImage, sigma: f32) -> Option<RgbImage> {
    let radius = (4.0 * sigma + 0.5) as i64;
    let weight = |at: i64| (-0.5 * (at as f32 / sigma).powi(2)).exp();
    let sum: f32 = (-radius..=radius).map(weight).sum();
    let weights: Vec<(i64, f32)> = (-radius..=radius).map(|at| (at, weight(at) / sum)).collect();
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let at = |x: i64, y: i64| ((y * width + x) * 3) as usize;
    let mut lines = vec![0.0f32; picture.data().len()];
    for y in 0..height {
        for x in 0..width {
            for &(offset, weight) in &weights {
                let from = at((x + offset).clamp(0, width - 1), y);
                for c in 0..3 {
                    lines[at(x, y) + c] += weight * f32::from(picture.data()[from + c]);
                }
            }
        }
    }
    let mut data = Vec::with_capacity(lines.len());
    for y in 0..height {
        for x in 0..width {
            let mut sums = [0.0f32; 3];
            for &(offset, weight) in &weights {
                let from = at(x, (y + offset).clamp(0, height - 1));
                sums.iter_mut()
                    .zip(&lines[from..])
                    .for_each(|(sum, v)| *sum += weight * v);
            }
            data.extend(sums.map(byte));
        }
    }
    RgbImage::new(picture.width(), picture.height(), data)
}

/// Box and Muller 1958, both numbers of a pair.
fn noise(picture: RgbImage, sigma: f32, key: &ItemKey) -> Option<RgbImage> {
    let seeds: Vec<u64> = key
        .as_bytes()
        .chunks(8)
        .map(|b| b.iter().fold(0, |n, &b| (n << 8) | u64::from(b)))
        .collect();
    let mut random = Random::new("bifocal-data corrupt noise", &seeds);
    let (width, height) = (picture.width(), picture.height());
    let mut data = picture.into_data();
    for pair in data.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * random.unit();
        for (value, normal) in pair.iter_mut().zip([radius * angle.cos(), radius * angle.sin()]) {
            *value = byte(f32::from(*value) + 255.0 * sigma * normal as f32);
        }
    }
    RgbImage::new(width, height, data)
}

/// The largest of the three channels grows; the others keep their ratio to it, which keeps hue and saturation.
fn brighter(picture: RgbImage, by: f32) -> Option<RgbImage> {
    let (width, height) = (picture.width(), picture.height());
    let mut data = picture.into_data();
    for pixel in data.chunks_exact_mut(3) {
        let value = f32::from(pixel.iter().copied().max().unwrap_or(0));
        let target = (value + 255.0 * by).min(255.0);
        for channel in pixel {
            *channel = byte(if value > 0.0 {
                f32::from(*channel) * target / value
            } else {
                target
            });
        }
    }
    RgbImage::new(width, height, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo(side: u32) -> RgbImage {
        let data = (0..side * side).flat_map(|i| [(i % side) as u8, (i / side) as u8, ((i / 7) % 256) as u8]);
        RgbImage::new(side, side, data.collect()).unwrap()
    }

    fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
        let squares = a
            .data()
            .iter()
            .zip(b.data())
            .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
        (squares.sum::<f64>() / a.data().len() as f64).sqrt()
    }

    #[test]
    fn every_level_is_worse_than_the_one_before() {
        let (picture, key) = (photo(120), ItemKey::of_text("photo"));
        for kind in Kind::ALL {
            let far = |level| {
                distance(
                    &picture,
                    &Corruption::new(kind, level)
                        .unwrap()
                        .apply(picture.clone(), &key)
                        .unwrap(),
                )
            };
            let all: Vec<f64> = (1..=LEVELS).map(far).collect();
            assert!(
                all[0] > 0.5 && all.windows(2).all(|two| two[0] < two[1]),
                "{kind:?}: {all:?}"
            );
        }
    }

    #[test]
    fn noise_has_its_deviation_and_belongs_to_the_picture() {
        let grey = RgbImage::new(100, 100, vec![128; 30_000]).unwrap();
        let noisy = |text: &str| {
            Corruption::new(Kind::Noise, 1)
                .unwrap()
                .apply(grey.clone(), &ItemKey::of_text(text))
                .unwrap()
        };
        assert!((distance(&grey, &noisy("a")) / (0.08 * 255.0) - 1.0).abs() < 0.02);
        assert_eq!(noisy("a"), noisy("a"));
        assert_ne!(noisy("a"), noisy("b"));
    }

    #[test]
    fn blur_is_the_normal_curve() {
        // a white line on black: its profile is the density of the filter
        let (side, sigma) = (41u32, 2.0f32);
        let data = (0..side * side).flat_map(|i| [if i % side == 20 { 255 } else { 0 }; 3]);
        let picture = RgbImage::new(side, side, data.collect()).unwrap();
        let blurred = Corruption::new(Kind::Blur, 2)
            .unwrap()
            .apply(picture, &ItemKey::of_text(""))
            .unwrap();
        for x in 12..29u32 {
            let density = (-0.5 * ((x as f32 - 20.0) / sigma).powi(2)).exp() / (sigma * std::f32::consts::TAU.sqrt());
            let found = f32::from(blurred.data()[((20 * side + x) * 3) as usize]);
            assert!(
                (found - 255.0 * density).abs() <= 0.6,
                "{x}: {found} {}",
                255.0 * density
            );
        }
    }

    #[test]
    fn brightness_keeps_the_hue() {
        let picture = RgbImage::new(2, 1, vec![100, 50, 0, 0, 0, 0]).unwrap();
        let brighter = Corruption::new(Kind::Brightness, 1)
            .unwrap()
            .apply(picture, &ItemKey::of_text(""))
            .unwrap();
        assert_eq!(brighter.data(), [126, 63, 0, 26, 26, 26]);
    }

    #[test]
    fn large_pictures_are_scaled_first_and_names_are_read() {
        let blurred = "jpeg-2"
            .parse::<Corruption>()
            .unwrap()
            .apply(photo(300), &ItemKey::of_text(""))
            .unwrap();
        assert_eq!((blurred.width(), blurred.height()), (SIDE, SIDE));
        for name in ["blur", "blur-0", "blur-6", "fog-1", "blur-x", ""] {
            assert!(name.parse::<Corruption>().is_err(), "{name}");
        }
        assert_eq!("noise-5".parse::<Corruption>().unwrap().to_string(), "noise-5");
    }
}
