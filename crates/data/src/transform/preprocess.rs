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

/// Largest side that a tower may ask for; a hostile configuration must not take the memory.
const MAX_SIZE: u32 = 4096;

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

    /// EfficientNet-Lite0: 256 then 224, bicubic, and `(v − 127) / 128` in place of ImageNet's statistics, as its
    /// TensorFlow authors trained it.
    #[must_use]
    pub fn efficientnet_lite0() -> Self {
        Self {
            mean: [127.0 / 255.0; 3],
            std: [128.0 / 255.0; 3],
            ..Self::imagenet(224, 256, Filter::Bicubic)
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
            ResizeMode::ShortestThenCrop { resize_to } => format!("shortest({resize_to})"),
        };
        let list = |v: [f32; 3]| v.map(|x| format!("{x}")).join(",");
        let files = if self.conventions.is_default() {
            String::new()
        } else {
            format!(" files={:?}", self.conventions)
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

    /// Values in one preprocessed picture: `size · size · 3`.
    #[must_use]
    pub fn values(&self) -> usize {
        self.size as usize * self.size as usize * 3
    }

    /// The square before normalisation.
    ///
    /// # Shapes
    /// `[h, w, 3]` to `[size, size, 3]`.
    ///
    /// # Errors
    /// What [`validate`](Self::validate) finds.
    pub fn square(&self, image: &RgbImage) -> Result<RgbImage, PreprocessError> {
        self.validate()?;
        let plan = self.plan(image.width(), image.height());
        let impossible = || PreprocessError(format!("{image:?} cannot become {0}×{0}", self.size));
        let part = resize_region(image, plan.width, plan.height, self.filter, plan.region).ok_or_else(impossible)?;
        if part.width() == self.size && part.height() == self.size {
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
    /// `[h, w, 3]` to `[size, size, 3]`, row-major f32.
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
        let square = self.square(image)?;
        // the same f32 operations in the same order as torchvision's, once per possible value
        let table: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c]));
        for (to, from) in out.chunks_exact_mut(3).zip(square.data().chunks_exact(3)) {
            for c in 0..3 {
                to[c] = table[c][usize::from(from[c])];
            }
        }
        Ok(())
    }

    fn plan(&self, width: u32, height: u32) -> Plan {
        let size = self.size;
        let (short, long) = (width.min(height), width.max(height));
        let (w, h) = match self.resize {
            ResizeMode::Squash => (size, size),
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(plan(&Preprocess::efficientnet_lite0(), 256, 300), (256, 300, 16, 38));
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
            Preprocess::efficientnet_lite0(),
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
        let good = serde_json::to_value(Preprocess::efficientnet_lite0()).unwrap();
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
