//! Many pictures at once: read, decode and preprocess on all threads, results in order.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode::{DecodeError, Limits, open_with};
use crate::transform::{Preprocess, PreprocessError};

/// A picture that could not be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct BadImage {
    /// Its place in the list that was given.
    pub index: usize,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: DecodeError,
}

/// A batch of preprocessed pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImages {
    /// `[good.len(), size, size, 3]`, row-major.
    pub pixels: Vec<f32>,
    /// Which of the given paths the rows are, ascending.
    pub good: Vec<usize>,
    /// The others, ascending.
    pub bad: Vec<BadImage>,
}

/// Loads pictures in parallel on rayon's current pool. The rows of `pixels` follow the order of `paths`; a picture that cannot be
/// loaded has no row and is reported in `bad`.
///
/// # Errors
/// [`PreprocessError`] for settings that cannot work.
pub fn load_images<P: AsRef<Path> + Sync>(
    paths: &[P],
    preprocess: &Preprocess,
    limits: &Limits,
) -> Result<LoadedImages, PreprocessError> {
    preprocess.validate()?;
    let values = preprocess.values();
    let mut pixels = vec![0.0; values * paths.len()];
    let outcomes: Vec<Result<(), DecodeError>> = pixels
        .par_chunks_exact_mut(values)
        .zip(paths)
        .map(|(row, path)| {
            let image = open_with(path.as_ref(), limits, preprocess.conventions)?;
            // the settings are valid and the row has the right length, so only the picture itself can fail here
            preprocess
                .apply_into(&image, row)
                .map_err(|e| DecodeError::Unsupported {
                    what: format!("a picture of this shape ({e})"),
                })
        })
        .collect();
    let (mut good, mut bad) = (Vec::with_capacity(paths.len()), Vec::new());
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(()) => {
                if good.len() < index {
                    pixels.copy_within(index * values..(index + 1) * values, good.len() * values);
                }
                good.push(index);
            }
            Err(error) => bad.push(BadImage {
                index,
                path: paths[index].as_ref().to_owned(),
                error,
            }),
        }
    }
    pixels.truncate(good.len() * values);
    Ok(LoadedImages { pixels, good, bad })
}
