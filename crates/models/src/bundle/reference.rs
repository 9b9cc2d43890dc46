//! What a model computes for two made-up pictures and a few texts: kept in a bundle, so that it can be told elsewhere whether it still
//! does.

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_data::RgbImage;

use super::{BundleError, Manifest, Model};
use crate::weights::HostTensor;

/// The file of a bundle with its reference embeddings.
pub const REFERENCE: &str = "reference.safetensors";

/// Short, empty, long, and in several scripts; a tokenizer or a limit of another model gives other numbers for one of them.
pub(crate) const TEXTS: [&str; 5] = [
    "a photo of a dog",
    "",
    "Zwei Linsen, ein Fokus: ein Hund läuft über die nasse Wiese.",
    "猫が窓の外を見ている。",
    "A man in a red jacket stands on a wooden bridge and looks at the river below, while two children with small yellow backpacks \
     run towards the other side, where an old woman sells roasted chestnuts from a cart painted in green and white.",
];

/// Pictures that no two preprocessings see alike: neither square nor smooth, and each channel has its own pattern.
pub(crate) fn pictures() -> [RgbImage; 2] {
    let paint = |width: u32, height: u32, pixel: fn(u32, u32) -> [u32; 3]| {
        let data = (0..width * height)
            .flat_map(|i| pixel(i % width, i / width))
            .map(|value| (value % 256) as u8)
            .collect();
        match RgbImage::new(width, height, data) {
            Some(image) => image,
            None => unreachable!("three values for each of {width}×{height} pixels"),
        }
    };
    [
        paint(97, 64, |x, y| [x * 5 + y, y * 4, (x * x + y * y) / 16]),
        paint(50, 120, |x, y| [255 * ((x / 7 + y / 11) % 2), x * 5, 255 - y * 2]),
    ]
}

/// Embeddings of unit length of the built-in pictures and texts: `images` `[2, dim]` and `texts` `[5, dim]`, for the towers that there are.
///
/// # Errors
/// As [`Model::embed_images`] and [`Model::embed_texts`].
pub(crate) fn embeddings(model: &Model) -> Result<BTreeMap<String, HostTensor>, BundleError> {
    let mut all = BTreeMap::new();
    let mut insert = |name: &str, data: Vec<f32>| {
        let shape = vec![data.len() / model.dim().max(1), model.dim()];
        all.insert(name.to_owned(), HostTensor { shape, data });
    };
    if let Some(preprocess) = model.preprocess() {
        let mut pixels = Vec::new();
        let pictures = pictures();
        for picture in &pictures {
            let values = preprocess.apply(picture);
            pixels.extend(values.map_err(|e| BundleError::Widths(e.to_string()))?);
        }
        insert("images", model.embed_images(&pixels, pictures.len())?);
    }
    if model.text().is_some() {
        insert("texts", model.embed_texts(&TEXTS)?);
    }
    Ok(all)
}

/// The embeddings that a bundle was written with; `None` if it has none.
pub(crate) fn stored(dir: &Path, manifest: &Manifest) -> Result<Option<BTreeMap<String, HostTensor>>, BundleError> {
    use crate::weights::TensorSource;
    if !manifest.files.contains_key(REFERENCE) {
        return Ok(None);
    }
    let source = super::model::open_file(dir, manifest, REFERENCE)?;
    let mut all = BTreeMap::new();
    for name in source.names() {
        all.insert(name.clone(), source.load(&name)?);
    }
    Ok(Some(all))
}
