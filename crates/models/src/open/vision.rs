//! Vision encoders.

use std::path::Path;

use bifocal_data::Preprocess;
use bifocal_nn::engine::values;

use super::clip::{HuggingFace, OpenClip, hugging_face_preprocess};
use super::preprocess::FILES;
use super::{Layout, OpenError, TEXT_PARTS, identity, load, name_of};
use crate::vision::{ClipVit, EfficientNetLite, ImageBatch, VisionTower};
use crate::weights;

/// Images that pass through a tower at once: more would not be faster, but need more memory.
const IMAGES: usize = 8;

/// A vision tower and what turns pictures into what it reads.
#[derive(Debug)]
pub struct VisionEncoder {
    /// The tower.
    pub tower: VisionTower,
    /// From pictures to pixels.
    pub preprocess: Preprocess,
    /// Hash of the weights and of settings that change what it computes.
    pub fingerprint: String,
    /// What to call it.
    pub name: String,
}

impl VisionEncoder {
    /// Embeds preprocessed pictures; rows are not normalised.
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n, dim]`, row-major.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another.
    pub fn embed(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, OpenError> {
        let side = self.preprocess.size as usize;
        let wrong = || OpenError::Pixels {
            found: pixels.len(),
            images: n,
            side,
        };
        let per_image = self.preprocess.values();
        if n.checked_mul(per_image) != Some(pixels.len()) || side != self.expected_side() {
            return Err(wrong());
        }
        let mut out = Vec::with_capacity(n * self.tower.dim());
        for chunk in pixels.chunks(IMAGES * per_image.max(1)) {
            let images = chunk.len() / per_image;
            let batch = ImageBatch::square(chunk.to_vec(), images, side).ok_or_else(wrong)?;
            out.extend(values(self.tower.embed(&batch)));
        }
        Ok(out)
    }

    /// A vision transformer has as many positions as it was trained with; a convolutional tower reads any size.
    fn expected_side(&self) -> usize {
        match &self.tower {
            VisionTower::EfficientNetLite(_) => self.preprocess.size as usize,
            VisionTower::ClipVit(tower) => tower.image_size(),
        }
    }
}

/// Opens a vision encoder: an EfficientNet-Lite0 as a file of weights (or a folder with one), CLIP as a folder in the layout of
/// transformers or of open_clip.
///
/// # Errors
/// [`OpenError`] with what is missing, damaged or not supported.
pub fn open_vision(path: &Path) -> Result<VisionEncoder, OpenError> {
    let none = |found: String| OpenError::NoEncoder {
        path: path.to_owned(),
        side: "vision",
        found,
        advice: "an EfficientNet-Lite0 (.pth), or the folder of a CLIP model with its config.json or open_clip_config.json",
    };
    let name = name_of(path);
    match Layout::of(path)? {
        Layout::HuggingFace(kind, settings) if kind == "clip" || kind == "clip_vision_model" => {
            let config = HuggingFace::new(settings, &kind)?.vision()?;
            let preprocess = hugging_face_preprocess(path, config.image_size)?;
            let tower = load(path, &TEXT_PARTS, |source| ClipVit::load(config, source))?;
            let fingerprint = identity(path, &["config.json", FILES[0], FILES[1]])?;
            Ok(VisionEncoder {
                tower: VisionTower::ClipVit(tower),
                preprocess,
                fingerprint,
                name,
            })
        }
        Layout::HuggingFace(kind, _) => Err(none(format!("its config.json describes a \"{kind}\""))),
        Layout::OpenClip(settings) => {
            let mut open_clip = OpenClip::new(settings)?;
            let config = open_clip.vision()?;
            let preprocess = open_clip.preprocess(config.image_size)?;
            let tower = load(path, &TEXT_PARTS, |source| ClipVit::load(config, source))?;
            let fingerprint = identity(path, &["open_clip_config.json"])?;
            Ok(VisionEncoder {
                tower: VisionTower::ClipVit(tower),
                preprocess,
                fingerprint,
                name,
            })
        }
        Layout::Bare => {
            let source = weights::open(path)?;
            if source.shape("_conv_stem.weight").is_none() {
                let first = source.names().into_iter().next().unwrap_or_default();
                return Err(none(format!("weights without settings, the first of them \"{first}\"")));
            }
            Ok(VisionEncoder {
                tower: VisionTower::EfficientNetLite(weights::strict(&*source, &[], EfficientNetLite::load)?),
                preprocess: Preprocess::efficientnet_lite0(),
                fingerprint: identity(path, &[])?,
                name,
            })
        }
    }
}
