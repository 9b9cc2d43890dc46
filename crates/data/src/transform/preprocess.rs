//! The preprocessing that belongs to a vision tower and travels with its weights.

use serde::{Deserialize, Serialize};

use super::resize::{Filter, resize_region};
use super::{CropRounding, Rect, center_offset};
use crate::RgbImage;
use crate::decode::Conventions;

/// How a picture becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ResizeMode {
    /// The shorter side becomes `size`, the longer one is cut evenly (CLIP).
    Shortest,
    /// Both sides become `size`; proportions are not kept (SigLIP).
    Squash,
    /// The longer side becomes `size`, the rest is filled.
    Longest {
        /// Colour of the margin.
        fill: [u8; 3],
    },
    /// Margins make the picture a square first, with the picture in their middle, then both sides become `size` (LLaVA 1.5).
    Padded {
        /// Colour of the margins.
        fill: [u8; 3],
    },
    /// Both sides become `resize_to` ≥ `size`, then the middle `size` × `size` is cut out (DeiT).
    SquashThenCrop {
        /// Both sides before the cut.
        resize_to: u32,
    },
    /// The shorter side becomes `resize_to` ≥ `size`, then the middle `size` × `size` is cut out (ImageNet classifiers).
    ShortestThenCrop {
        /// Shorter side before the cut.
        resize_to: u32,
    },
    /// Proportions are kept but for rounding: both sides become multiples of `patch`, with as many patches as fit into `most` (SigLIP 2
    /// NaFlex). The picture is not square, so its values begin with its height and width; see [`Preprocess::apply`].
    Patches {
        /// Side of a patch.
        patch: u32,
        /// The most patches of a picture.
        most: u32,
    },
}

/// Resize, crop and normalisation of one tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Side of the square that the tower reads, in pixels.
    pub size: u32,
    /// How the picture becomes that square.
    pub resize: ResizeMode,
    /// Resampling filter.
    pub filter: Filter,
    /// Per channel, subtracted after the division by 255.
    pub mean: [f32; 3],
    /// Per channel, divides last.
    pub std: [f32; 3],
    /// Where an odd margin is cut.
    #[serde(default)]
    pub crop_rounding: CropRounding,
    /// How files are read before all this.
    #[serde(default, skip_serializing_if = "Conventions::is_default")]
    pub conventions: Conventions,
}

/// A preprocessing that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the preprocessing cannot work: {0}; correct the model's preprocessing settings")]
pub struct PreprocessError(String);

impl PreprocessError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Largest side that a tower may ask for; a hostile configuration must not take the memory.
const MAX_SIZE: u32 = 4096;

/// Sides up to here are exact in f32.
const MAX_SIDE: f32 = 16_777_216.0;

/// Statistics of CLIP's training data, with the digits that were published.
#[allow(clippy::excessive_precision)]
const CLIP_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
#[allow(clippy::excessive_precision)]
const CLIP_STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];

/// What happens to a picture of a certain size.
struct Plan {
    /// Size after the resampling, before the crop.
    width: u32,
    height: u32,
    /// What of it is kept.
    region: Rect,
    /// Where in the square it lands.
    at: (u32, u32),
}

impl Preprocess {
    /// CLIP's own: shorter side to `size`, bicubic, centre crop, the statistics of its training data.
    #[must_use]
    pub fn clip(size: u32) -> Self {
        Self {
            size,
            resize: ResizeMode::Shortest,
            filter: Filter::Bicubic,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            crop_rounding: CropRounding::HalfEven,
            conventions: Conventions::default(),
        }
    }

    /// SigLIP as open_clip runs it: squashed bicubic, values in −1…1.
    #[must_use]
    pub fn siglip(size: u32) -> Self {
        Self {
            resize: ResizeMode::Squash,
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Self::clip(size)
        }
    }

    /// Classifiers trained on ImageNet: shorter side to `resize_to`, centre crop of `size`, ImageNet's statistics.
    #[must_use]
    pub fn imagenet(size: u32, resize_to: u32, filter: Filter) -> Self {
        Self {
            resize: ResizeMode::ShortestThenCrop { resize_to },
            filter,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..Self::clip(size)
        }
    }

    /// EfficientNet-Lite: 32 pixels more than `size`, then `size`, bicubic, and `(v − 127) / 128` in place of ImageNet's statistics, as
    /// its TensorFlow authors trained it.
    #[must_use]
    pub fn efficientnet_lite(size: u32) -> Self {
        Self {
            mean: [127.0 / 255.0; 3],
            std: [128.0 / 255.0; 3],
            ..Self::imagenet(size, size.saturating_add(32), Filter::Bicubic)
        }
    }

    /// Checks settings that came from a file.
    ///
    /// # Errors
    /// [`PreprocessError`] for a size of 0 or beyond 4096, statistics that are not finite, a std of 0, or a resize below the crop.
    pub fn validate(&self) -> Result<(), PreprocessError> {
        let bad = |what: String| Err(PreprocessError(what));
        if self.size == 0 || self.size > MAX_SIZE {
            return bad(format!("size is {}, it must be 1…{MAX_SIZE}", self.size));
        }
        if let ResizeMode::ShortestThenCrop { resize_to } | ResizeMode::SquashThenCrop { resize_to } = self.resize
            && !(self.size..=4 * MAX_SIZE).contains(&resize_to)
        {
            return bad(format!(
                "resize_to is {resize_to}, it must be {}…{}",
                self.size,
                4 * MAX_SIZE
            ));
        }
        if let ResizeMode::Patches { patch, most } = self.resize {
            let pixels = u64::from(patch).pow(2).checked_mul(u64::from(most));
            if patch == 0 || most == 0 || pixels.is_none_or(|pixels| pixels > u64::from(MAX_SIZE).pow(2)) {
                return bad(format!(
                    "{most} patches of {patch}×{patch} pixels, they must be at least one and at most {MAX_SIZE}×{MAX_SIZE} pixels"
                ));
            }
        }
        if !self.mean.iter().chain(&self.std).all(|v| v.is_finite()) || self.std.iter().any(|&s| s <= 0.0) {
            return bad(format!(
                "mean {:?} and std {:?} must be finite and std above 0",
                self.mean, self.std
            ));
        }
        Ok(())
    }

    /// A line that is equal exactly when two preprocessings give the same numbers; part of the key of cached features.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mode = match self.resize {
            ResizeMode::Shortest => "shortest".to_owned(),
            ResizeMode::Squash => "squash".to_owned(),
            ResizeMode::SquashThenCrop { resize_to } => format!("squash({resize_to})"),
            ResizeMode::Longest { fill: [r, g, b] } => format!("longest({r},{g},{b})"),
            ResizeMode::Padded { fill: [r, g, b] } => format!("padded({r},{g},{b})"),
            ResizeMode::ShortestThenCrop { resize_to } => format!("shortest({resize_to})"),
            ResizeMode::Patches { patch, most } => format!("patches({patch},{most})"),
        };
        let list = |v: [f32; 3]| v.map(|x| format!("{x}")).join(",");
        let files = if self.conventions.is_default() {
            String::new()
        } else {
            self.conventions.fingerprint()
        };
        format!(
            "v1 size={} resize={mode} filter={:?} mean={} std={} crop={:?}{files}",
            self.size,
            self.filter,
            list(self.mean),
            list(self.std),
            self.crop_rounding
        )
        .to_lowercase()
    }

    /// Values in one preprocessed picture: `size · size · 3`; for [`ResizeMode::Patches`] height, width, and room for `most` patches.
    #[must_use]
    pub fn values(&self) -> usize {
        match self.resize {
            ResizeMode::Patches { patch, most } => 2 + most as usize * patch as usize * patch as usize * 3,
            _ => self.size as usize * self.size as usize * 3,
        }
    }

    /// Height, width and pixels of a picture as [`apply`](Self::apply) gives it; `None` when there are too few values or a height and width
    /// that cannot be.
    #[must_use]
    pub fn picture<'a>(&self, values: &'a [f32]) -> Option<(usize, usize, &'a [f32])> {
        let ResizeMode::Patches { patch, .. } = self.resize else {
            let side = self.size as usize;
            return Some((side, side, values.get(..side * side * 3)?));
        };
        let side = |v: f32| ((1.0..=MAX_SIDE).contains(&v) && v.fract() == 0.0).then_some(v as usize);
        let (height, width) = (side(*values.first()?)?, side(*values.get(1)?)?);
        let whole = height.is_multiple_of(patch as usize) && width.is_multiple_of(patch as usize);
        let pixels = values.get(2..)?.get(..height.checked_mul(width)?.checked_mul(3)?)?;
        whole.then_some((height, width, pixels))
    }

    /// The square before normalisation; for [`ResizeMode::Patches`] the rectangle.
    ///
    /// # Shapes
    /// `[h, w, 3]` to `[size, size, 3]`.
    ///
    /// # Errors
    /// What [`validate`](Self::validate) finds.
    pub fn square(&self, image: &RgbImage) -> Result<RgbImage, PreprocessError> {
        self.validate()?;
        let padded;
        let image = match self.resize {
            ResizeMode::Padded { fill } => {
                padded = pad(image, fill, self.size, self.filter);
                padded.as_ref().unwrap_or(image)
            }
            _ => image,
        };
        let plan = self.plan(image.width(), image.height());
        let impossible = || PreprocessError(format!("{image:?} cannot become {0}×{0}", self.size));
        let part = resize_region(image, plan.width, plan.height, self.filter, plan.region).ok_or_else(impossible)?;
        let whole = matches!(self.resize, ResizeMode::Patches { .. });
        if whole || (part.width() == self.size && part.height() == self.size) {
            return Ok(part);
        }
        let fill = if let ResizeMode::Longest { fill } = self.resize {
            fill
        } else {
            [0; 3]
        };
        let mut data = fill.repeat(self.values() / 3);
        let row = part.width() as usize * 3;
        for (y, from) in part.data().chunks_exact(row).enumerate() {
            let at = ((plan.at.1 as usize + y) * self.size as usize + plan.at.0 as usize) * 3;
            data[at..at + row].copy_from_slice(from);
        }
        RgbImage::new(self.size, self.size, data).ok_or_else(impossible)
    }

    /// Resize, crop, `(v / 255 − mean) / std`.
    ///
    /// # Shapes
    /// `[h, w, 3]` to `[size, size, 3]`, row-major f32. For [`ResizeMode::Patches`] to a row of [`values`](Self::values): height and width,
    /// then as many pixels as they say, then zeros; [`picture`](Self::picture) reads it.
    ///
    /// # Errors
    /// What [`validate`](Self::validate) finds.
    pub fn apply(&self, image: &RgbImage) -> Result<Vec<f32>, PreprocessError> {
        let mut out = vec![0.0; self.values()];
        self.apply_into(image, &mut out)?;
        Ok(out)
    }

    /// As [`apply`](Self::apply), into `out` of [`values`](Self::values) elements.
    ///
    /// # Errors
    /// What [`validate`](Self::validate) finds, and a slice of another length.
    pub fn apply_into(&self, image: &RgbImage, out: &mut [f32]) -> Result<(), PreprocessError> {
        if out.len() != self.values() {
            return Err(PreprocessError(format!(
                "{} values do not fit into a slice of {}",
                self.values(),
                out.len()
            )));
        }
        self.normalize(&self.square(image)?, out);
        Ok(())
    }

    /// `(v / 255 − mean) / std` of what [`square`](Self::square) gives, into [`values`](Self::values) elements.
    pub(crate) fn normalize(&self, square: &RgbImage, out: &mut [f32]) {
        // the same f32 operations in the same order as torchvision's, once per possible value
        let table: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c]));
        let out = match self.resize {
            ResizeMode::Patches { .. } => {
                let (sides, pixels) = out.split_at_mut(2);
                sides.copy_from_slice(&[square.height() as f32, square.width() as f32]);
                let (used, room) = pixels.split_at_mut(square.data().len());
                room.fill(0.0);
                used
            }
            _ => out,
        };
        for (to, from) in out.chunks_exact_mut(3).zip(square.data().chunks_exact(3)) {
            for c in 0..3 {
                to[c] = table[c][usize::from(from[c])];
            }
        }
    }

    fn plan(&self, width: u32, height: u32) -> Plan {
        let size = self.size;
        let (short, long) = (width.min(height), width.max(height));
        let (w, h) = match self.resize {
            ResizeMode::Patches { patch, most } => {
                let (width, height) = whole_patches(width, height, patch, most);
                let region = Rect {
                    x: 0,
                    y: 0,
                    width,
                    height,
                };
                return Plan {
                    width,
                    height,
                    region,
                    at: (0, 0),
                };
            }
            ResizeMode::Squash | ResizeMode::Padded { .. } => (size, size),
            ResizeMode::SquashThenCrop { resize_to } => (resize_to, resize_to),
            ResizeMode::Shortest | ResizeMode::ShortestThenCrop { .. } => {
                let to = if let ResizeMode::ShortestThenCrop { resize_to } = self.resize {
                    resize_to
                } else {
                    size
                };
                // truncated; saturates for a picture of one row, of which only the middle is computed anyway
                let other = u64::from(to) * u64::from(long) / u64::from(short);
                let other = u32::try_from(other).unwrap_or(u32::MAX);
                if width <= height { (to, other) } else { (other, to) }
            }
            ResizeMode::Longest { .. } => {
                let ratio = f64::from(long) / f64::from(size);
                let side = |v: u32| ((f64::from(v) / ratio).round_ties_even() as u32).clamp(1, size);
                (side(width), side(height))
            }
        };
        let region = Rect {
            x: center_offset(w, size, self.crop_rounding),
            y: center_offset(h, size, self.crop_rounding),
            width: w.min(size),
            height: h.min(size),
        };
        // padding always puts the odd pixel behind
        Plan {
            width: w,
            height: h,
            region,
            at: ((size - region.width) / 2, (size - region.height) / 2),
        }
    }
}

/// Pixels of a padded picture up to which it is padded as it is; a longer one, whose square would take gigabytes, is made smaller before.
const MAX_PADDED: u64 = 1 << 26;

/// A picture in the middle of a square, an odd pixel of margin behind it, as LLaVA's `expand2square` has it; `None` for one that is a square.
fn pad(image: &RgbImage, fill: [u8; 3], size: u32, filter: Filter) -> Option<RgbImage> {
    let (width, height) = (image.width(), image.height());
    let long = width.max(height);
    if width == height {
        return None;
    }
    let smaller;
    let mut image = image;
    if u64::from(long).pow(2) > MAX_PADDED {
        let side = 4 * size.min(1024);
        let scaled = |v: u32| ((u64::from(v) * u64::from(side) / u64::from(long)) as u32).max(1);
        let (width, height) = (scaled(width), scaled(height));
        let region = Rect {
            x: 0,
            y: 0,
            width,
            height,
        };
        smaller = resize_region(image, width, height, filter, region)?;
        image = &smaller;
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let side = width.max(height);
    let (x, y) = ((side - width) / 2, (side - height) / 2);
    let mut data = fill.repeat(side * side);
    for (row, from) in image.data().chunks_exact(width * 3).enumerate() {
        let at = ((y + row) * side + x) * 3;
        data[at..at + width * 3].copy_from_slice(from);
    }
    RgbImage::new(side as u32, side as u32, data)
}

/// The largest width and height, multiples of `patch`, at one scale and with no more than `most` patches: by bisection, as its authors do
/// it, since rounding up makes the number of patches jump.
fn whole_patches(width: u32, height: u32, patch: u32, most: u32) -> (u32, u32) {
    const EPS: f64 = 1e-5;
    let patches = |side: u32, scale: f64| (f64::from(side) * scale / f64::from(patch)).ceil().max(1.0);
    let (mut low, mut high) = (EPS / 10.0, 100.0);
    while high - low >= EPS {
        let scale = (low + high) / 2.0;
        if patches(width, scale) * patches(height, scale) <= f64::from(most) {
            low = scale;
        } else {
            high = scale;
        }
    }
    // a side of more patches than there may be cannot come out, but for a picture a million times longer than wide
    let side = |side: u32| (patches(side, low) as u32).min(most) * patch;
    let (width, height) = (side(width), side(height));
    if width / patch * (height / patch) <= most {
        (width, height)
    } else {
        (patch, patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_put_on_before_resizing() {
        let fill = [122, 116, 104];
        let preprocess = |size| Preprocess {
            resize: ResizeMode::Padded { fill },
            ..Preprocess::clip(size)
        };
        for (w, h, x, y) in [(5u32, 2u32, 0usize, 1usize), (2, 5, 1, 0), (4, 3, 0, 0)] {
            let data: Vec<u8> = (0..w * h * 3).map(|i| (i * 7 % 251) as u8).collect();
            let image = RgbImage::new(w, h, data).expect("fits");
            let side = w.max(h);
            let square = preprocess(side).square(&image).expect("fine");
            let at = |image: &RgbImage, x: usize, y: usize| {
                let at = (y * image.width() as usize + x) * 3;
                image.data()[at..at + 3].to_vec()
            };
            for row in 0..side as usize {
                for column in 0..side as usize {
                    let inside = (y..y + h as usize).contains(&row) && (x..x + w as usize).contains(&column);
                    let expected = if inside {
                        at(&image, column - x, row - y)
                    } else {
                        fill.to_vec()
                    };
                    assert_eq!(at(&square, column, row), expected, "{w}×{h}: {column}, {row}");
                }
            }
        }
        // a line a million times longer than wide does not become a square of terabytes
        let line = RgbImage::new(1_000_000, 1, vec![9; 3_000_000]).expect("fits");
        assert_eq!(preprocess(32).square(&line).expect("fine").width(), 32);
    }

    /// Sizes that transformers' `get_image_size_for_max_num_patches` gives.
    #[test]
    fn patches_keep_proportions() {
        for ((w, h), expected) in [
            ((224, 224), (256, 256)),
            ((640, 480), (288, 224)),
            ((480, 640), (224, 288)),
            ((1920, 1080), (336, 192)),
            ((1000, 100), (800, 80)),
            ((1, 1), (112, 112)),
        ] {
            assert_eq!(whole_patches(w, h, 16, 256), expected, "{w}×{h}");
        }
        for (w, h) in [(16_384, 1), (1, 16_384), (16_384, 16_384)] {
            let (w, h) = whole_patches(w, h, 16, 256);
            assert!(w / 16 * (h / 16) <= 256 && w % 16 == 0 && h % 16 == 0);
        }
        let flexible = Preprocess {
            resize: ResizeMode::Patches { patch: 4, most: 12 },
            ..Preprocess::siglip(12)
        };
        let wide = RgbImage::new(30, 10, vec![255; 900]).unwrap();
        let values = flexible.apply(&wide).unwrap();
        assert_eq!(values.len(), 2 + 12 * 48);
        let (height, width, pixels) = flexible.picture(&values).unwrap();
        assert_eq!((height, width), (8, 24));
        assert!(pixels.len() == 8 * 24 * 3 && pixels.iter().all(|&v| v == 1.0));
        assert!(flexible.picture(&values[..9]).is_none());
        for damaged in [f32::NAN, -8.0, 7.0, 8.5, 1e30] {
            let mut values = values.clone();
            values[0] = damaged;
            assert!(flexible.picture(&values).is_none(), "{damaged}");
        }
        for (patch, most) in [(0, 1), (1, 0), (u32::MAX, u32::MAX), (16, u32::MAX)] {
            let resize = ResizeMode::Patches { patch, most };
            assert!(
                Preprocess {
                    resize,
                    ..flexible.clone()
                }
                .validate()
                .is_err()
            );
        }
    }

    #[test]
    fn sizes_as_torchvision_computes_them() {
        let clip = Preprocess::clip(224);
        let plan = |p: &Preprocess, w, h| {
            let p = p.plan(w, h);
            (p.width, p.height, p.region.x, p.region.y)
        };
        assert_eq!(plan(&clip, 640, 480), (298, 224, 37, 0));
        assert_eq!(plan(&clip, 480, 640), (224, 298, 0, 37));
        assert_eq!(plan(&clip, 500, 375), (298, 224, 37, 0));
        assert_eq!(plan(&clip, 227, 224), (227, 224, 2, 0));
        assert_eq!(plan(&Preprocess::efficientnet_lite(224), 256, 300), (256, 300, 16, 38));
        assert_eq!(plan(&Preprocess::siglip(384), 640, 480), (384, 384, 0, 0));
        let longest = Preprocess {
            resize: ResizeMode::Longest { fill: [1, 2, 3] },
            ..Preprocess::clip(224)
        };
        let p = longest.plan(640, 427);
        assert_eq!((p.width, p.height, p.at), (224, 149, (0, 37)));
    }

    #[test]
    fn a_row_of_one_pixel_costs_only_the_square() {
        let wide = RgbImage::new(16_384, 1, vec![200; 16_384 * 3]).unwrap();
        let square = Preprocess::clip(224).square(&wide).unwrap();
        assert!(square.data().iter().all(|&v| v == 200));
        let longest = Preprocess {
            resize: ResizeMode::Longest { fill: [9; 3] },
            ..Preprocess::clip(8)
        };
        let square = longest.square(&wide).unwrap();
        assert_eq!(square.data().iter().filter(|&&v| v == 200).count(), 8 * 3);
        assert_eq!(square.data().iter().filter(|&&v| v == 9).count(), 7 * 8 * 3);
    }

    #[test]
    fn serde_is_exact_and_strict() {
        for p in [
            Preprocess::clip(336),
            Preprocess::efficientnet_lite(224),
            Preprocess {
                resize: ResizeMode::Longest { fill: [0, 127, 255] },
                ..Preprocess::siglip(64)
            },
            Preprocess {
                conventions: Conventions::pillow(),
                ..Preprocess::clip(224)
            },
        ] {
            let json = serde_json::to_string(&p).unwrap();
            assert_eq!(serde_json::from_str::<Preprocess>(&json).unwrap(), p, "{json}");
        }
        let good = serde_json::to_value(Preprocess::efficientnet_lite(224)).unwrap();
        let mut unknown = good.clone();
        unknown["colour"] = true.into();
        assert!(serde_json::from_value::<Preprocess>(unknown).is_err());
        let mut unknown = good;
        unknown["resize"]["shortest-then-crop"]["to"] = 3.into();
        assert!(serde_json::from_value::<Preprocess>(unknown).is_err());
    }

    #[test]
    fn fingerprints_differ_with_every_field() {
        let base = Preprocess::clip(224);
        let variants = [
            base.clone(),
            Preprocess {
                size: 225,
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::Squash,
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::Longest { fill: [0; 3] },
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::Longest { fill: [0, 0, 1] },
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::ShortestThenCrop { resize_to: 256 },
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::SquashThenCrop { resize_to: 256 },
                ..base.clone()
            },
            Preprocess {
                filter: Filter::Bilinear,
                ..base.clone()
            },
            Preprocess {
                mean: [0.5; 3],
                ..base.clone()
            },
            Preprocess {
                std: [0.5; 3],
                ..base.clone()
            },
            Preprocess {
                crop_rounding: CropRounding::Floor,
                ..base.clone()
            },
            Preprocess {
                conventions: Conventions::pillow(),
                ..base
            },
        ];
        let set: std::collections::BTreeSet<_> = variants.iter().map(Preprocess::fingerprint).collect();
        assert_eq!(set.len(), variants.len());
        // a change here makes every cached feature stale, so it must be deliberate
        assert_eq!(
            Preprocess::siglip(224).fingerprint(),
            "v1 size=224 resize=squash filter=bicubic mean=0.5,0.5,0.5 std=0.5,0.5,0.5 crop=halfeven"
        );
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let base = Preprocess::clip(224);
        let image = RgbImage::new(2, 2, vec![0; 12]).unwrap();
        for bad in [
            Preprocess {
                size: 0,
                ..base.clone()
            },
            Preprocess {
                size: 1_000_000,
                ..base.clone()
            },
            Preprocess {
                std: [1.0, 0.0, 1.0],
                ..base.clone()
            },
            Preprocess {
                mean: [f32::NAN, 0.0, 0.0],
                ..base.clone()
            },
            Preprocess {
                resize: ResizeMode::ShortestThenCrop { resize_to: 100 },
                ..base.clone()
            },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
            assert!(bad.square(&image).is_err(), "{bad:?}");
        }
        assert!(base.apply_into(&image, &mut [0.0; 3]).is_err());
    }
}
