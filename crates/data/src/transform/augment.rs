//! Random changes of pictures in training, after torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `ColorJitter` and
//! `RandomGrayscale`, in this order. Draws are our own: a picture's changes are a function of its seed.

use serde::{Deserialize, Serialize};

use super::colour::{brightness, contrast, grey, hue, saturation};
use super::{Preprocess, PreprocessError, Rect, ResizeMode, center_offset, resize};
use crate::random::Random;
use crate::transform::CropRounding;
use crate::{Filter, RgbImage};

/// What may happen to a picture. The defaults are open_clip's: a crop of 90 to 100 % of the area, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Least and largest part of the picture's area that is kept, 0–1.
    pub crop_scale: [f64; 2],
    /// Least and largest width by height of that part; drawn evenly on a logarithmic scale.
    pub crop_ratio: [f64; 2],
    /// Probability of a mirror image.
    pub flip: f64,
    /// Changes of colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
    /// Probability of the changes of colour.
    pub jitter_probability: f64,
    /// Probability of a grey picture.
    pub grey: f64,
}

/// How far colours may change. A factor is drawn from 1 − x (at least 0) to 1 + x, the hue's from −x to x; 0 is no change.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jitter {
    /// Of the brightness, 0 or more.
    pub brightness: f64,
    /// Of the contrast, 0 or more.
    pub contrast: f64,
    /// Of the saturation, 0 or more.
    pub saturation: f64,
    /// Of the hue, 0 to 0.5 of the circle.
    pub hue: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            crop_scale: [0.9, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.0,
            jitter: None,
            jitter_probability: 0.8,
            grey: 0.0,
        }
    }
}

impl Augment {
    /// Checks settings that came from a file.
    ///
    /// # Errors
    /// [`PreprocessError`] for numbers outside their ranges, for what [`Preprocess::validate`] finds, and for a tower that reads pictures of
    /// any proportions.
    pub fn validate(&self, preprocess: &Preprocess) -> Result<(), PreprocessError> {
        preprocess.validate()?;
        let bad = |what: String| Err(PreprocessError::new(what));
        if let ResizeMode::Patches { .. } = preprocess.resize {
            return bad("pictures of any proportions cannot be cropped at random".to_owned());
        }
        let [least, most] = self.crop_scale;
        if !(0.0 < least && least <= most && most <= 1.0) {
            return bad(format!(
                "crop_scale is {least}…{most}, it must rise and lie above 0 and up to 1"
            ));
        }
        let [least, most] = self.crop_ratio;
        if !(0.0 < least && least <= most && most.is_finite()) {
            return bad(format!("crop_ratio is {least}…{most}, it must rise and be above 0"));
        }
        for (name, p) in [
            ("flip", self.flip),
            ("jitter_probability", self.jitter_probability),
            ("grey", self.grey),
        ] {
            if !(0.0..=1.0).contains(&p) {
                return bad(format!("{name} is {p}, it must be a probability, 0…1"));
            }
        }
        let jitter = self.jitter.unwrap_or_default();
        for (name, x, most) in [
            ("brightness", jitter.brightness, f64::from(u8::MAX)),
            ("contrast", jitter.contrast, f64::from(u8::MAX)),
            ("saturation", jitter.saturation, f64::from(u8::MAX)),
            ("hue", jitter.hue, 0.5),
        ] {
            if !(0.0..=most).contains(&x) {
                return bad(format!("jitter.{name} is {x}, it must be 0…{most}"));
            }
        }
        Ok(())
    }

    /// Changes a picture; of `preprocess` the size and the filter are used.
    ///
    /// # Shapes
    /// `[h, w, 3]` to `[size, size, 3]`.
    ///
    /// # Errors
    /// [`PreprocessError`] for a size of 0; call [`validate`](Self::validate) first.
    pub fn apply(&self, image: &RgbImage, preprocess: &Preprocess, seed: u64) -> Result<RgbImage, PreprocessError> {
        let mut random = Random::new("bifocal-data augmentation v1", &[seed]);
        let region = crop_box(
            (image.width(), image.height()),
            self.crop_scale,
            self.crop_ratio,
            &mut || random.unit(),
        );
        let mut out = resized_crop(image, region, preprocess.size, preprocess.filter)
            .ok_or_else(|| PreprocessError::new(format!("{image:?} cannot become {0}×{0}", preprocess.size)))?;
        if random.unit() < self.flip {
            out = mirror(out);
        }
        if let Some(jitter) = &self.jitter
            && random.unit() < self.jitter_probability
        {
            out = jitter.apply(out, &mut random);
        }
        if random.unit() < self.grey {
            out = grey(out);
        }
        Ok(out)
    }
}

impl Jitter {
    /// The order first, then the factors in theirs, as torchvision draws them.
    fn apply(&self, mut image: RgbImage, random: &mut Random) -> RgbImage {
        let mut order = [0, 1, 2, 3];
        for i in (1..4).rev() {
            order.swap(i, random.below(i as u32 + 1) as usize);
        }
        let mut between = |x: f64, least: f64, middle: f64| {
            let (from, to) = ((middle - x).max(least), middle + x);
            (from + random.unit() * (to - from)) as f32
        };
        let factors = [
            between(self.brightness, 0.0, 1.0),
            between(self.contrast, 0.0, 1.0),
            between(self.saturation, 0.0, 1.0),
            between(self.hue, -0.5, 0.0),
        ];
        let asked = [self.brightness, self.contrast, self.saturation, self.hue].map(|x| x > 0.0);
        for i in order.into_iter().filter(|&i| asked[i]) {
            let change = [brightness, contrast, saturation, hue][i];
            image = change(image, factors[i]);
        }
        image
    }
}

/// The part that torchvision's `RandomResizedCrop.get_params` keeps, from numbers drawn evenly from 0 to 1: for each of ten tries the
/// area and the logarithm of the ratio, and when the part fits its top and its left edge. When none fits: the middle, as much of it as
/// the ratio allows.
fn crop_box((width, height): (u32, u32), scale: [f64; 2], ratio: [f64; 2], draw: &mut impl FnMut() -> f64) -> Rect {
    let between = |[from, to]: [f64; 2], u: f64| from + u * (to - from);
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let area = area * between(scale, draw());
        let ratio = between(ratio.map(f64::ln), draw()).exp();
        let w = (area * ratio).sqrt().round_ties_even();
        let h = (area / ratio).sqrt().round_ties_even();
        if w >= 1.0 && w <= f64::from(width) && h >= 1.0 && h <= f64::from(height) {
            let (w, h) = (w as u32, h as u32);
            let place = |room: u32, u: f64| ((u * f64::from(room + 1)) as u32).min(room);
            let y = place(height - h, draw());
            let x = place(width - w, draw());
            return Rect {
                x,
                y,
                width: w,
                height: h,
            };
        }
    }
    let whole = f64::from(width) / f64::from(height);
    let (mut w, mut h) = (width, height);
    // a picture of one row or column would lose all its pixels
    if whole < ratio[0] {
        h = ((f64::from(w) / ratio[0]).round_ties_even() as u32).clamp(1, height);
    } else if whole > ratio[1] {
        w = ((f64::from(h) * ratio[1]).round_ties_even() as u32).clamp(1, width);
    }
    Rect {
        x: center_offset(width, w, CropRounding::Floor),
        y: center_offset(height, h, CropRounding::Floor),
        width: w,
        height: h,
    }
}

/// Cut out first, then resized: pixels outside of the part have no say.
fn resized_crop(image: &RgbImage, part: Rect, size: u32, filter: Filter) -> Option<RgbImage> {
    let row = part.width as usize * 3;
    let mut data = Vec::with_capacity(row * part.height as usize);
    for y in part.y..part.y.checked_add(part.height)? {
        let at = (y as usize * image.width() as usize + part.x as usize) * 3;
        data.extend_from_slice(image.data().get(at..at + row)?);
    }
    resize(&RgbImage::new(part.width, part.height, data)?, size, size, filter)
}

fn mirror(image: RgbImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let row = width as usize * 3;
    let mut data = Vec::with_capacity(image.data().len());
    for line in image.data().chunks_exact(row) {
        line.chunks_exact(3)
            .rev()
            .for_each(|pixel| data.extend_from_slice(pixel));
    }
    RgbImage::new(width, height, data).unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/augment.json")).unwrap()
    }

    fn numbers<const N: usize>(list: &Value) -> [f64; N] {
        std::array::from_fn(|i| list[i].as_f64().unwrap())
    }

    /// torchvision's own function, with our draws in place of its generator's.
    #[test]
    fn boxes_equal_torchvision() {
        let fixture = fixture();
        let cases = fixture["crops"].as_array().unwrap();
        assert_eq!(cases.len(), 48);
        for case in cases {
            let [width, height] = numbers(&case["size"]).map(|v| v as u32);
            let mut draws = case["draws"].as_array().unwrap().iter().map(|d| d.as_f64().unwrap());
            let mut draw = || draws.next().unwrap();
            let rect = crop_box(
                (width, height),
                numbers(&case["scale"]),
                numbers(&case["ratio"]),
                &mut draw,
            );
            let ours = [rect.x, rect.y, rect.width, rect.height];
            assert_eq!(ours, numbers(&case["box"]).map(|v| v as u32), "{case}");
        }
    }

    #[test]
    fn a_cut_out_part_equals_torchvisions() {
        let case = &fixture()["resized_crop"];
        let mut state = 5u32;
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let image = RgbImage::new(16, 10, (0..480).map(value).collect()).unwrap();
        let [x, y, width, height] = numbers(&case["box"]).map(|v| v as u32);
        let part = Rect { x, y, width, height };
        let ours = resized_crop(&image, part, 8, Filter::Bicubic).unwrap();
        let hex: String = ours.data().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, case["pixels"].as_str().unwrap());
    }

    #[test]
    fn extreme_pictures_have_a_part() {
        for (width, height) in [(1, 16_384), (16_384, 1), (1, 1), (2, 3)] {
            for draws in [0.0, 0.5, 1.0 - f64::EPSILON] {
                let part = crop_box((width, height), [0.01, 0.02], [0.75, 1.3], &mut || draws);
                assert!(part.width >= 1 && part.height >= 1);
                assert!(part.x + part.width <= width && part.y + part.height <= height);
            }
        }
    }
}
