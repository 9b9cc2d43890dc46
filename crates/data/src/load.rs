//! Many pictures at once: read, decode and preprocess on all threads, results in order.

use std::borrow::Borrow;

use rayon::prelude::*;

use crate::RgbImage;
use crate::decode::{DecodeError, Limits};
use crate::source::ImageSource;
use crate::transform::{Augment, Preprocess, PreprocessError};

/// A picture that could not be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct BadImage {
    /// Its place in the list that was given.
    pub index: usize,
    /// Where it is.
    pub image: ImageSource,
    /// Why.
    pub error: DecodeError,
}

/// A batch of preprocessed pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImages {
    /// `[good.len(), size, size, 3]`, row-major.
    pub pixels: Vec<f32>,
    /// Which of the given pictures the rows are, ascending.
    pub good: Vec<usize>,
    /// The others, ascending.
    pub bad: Vec<BadImage>,
}

/// Loads pictures in parallel on rayon's current pool. The rows of `pixels` follow the order of `images`; a picture that cannot be
/// loaded has no row and is reported in `bad`.
///
/// # Errors
/// [`PreprocessError`] for settings that cannot work.
pub fn load_images<S: Borrow<ImageSource> + Sync>(
    images: &[S],
    preprocess: &Preprocess,
    limits: &Limits,
) -> Result<LoadedImages, PreprocessError> {
    Ok(load_images_and(images, preprocess, limits, |_| ())?.0)
}

/// As [`load_images`], and what `also` makes of each good picture while its pixels are there: a thumbnail, its size.
///
/// # Errors
/// [`PreprocessError`] for settings that cannot work.
pub fn load_images_and<S: Borrow<ImageSource> + Sync, T: Send>(
    images: &[S],
    preprocess: &Preprocess,
    limits: &Limits,
    also: impl Fn(&RgbImage) -> T + Sync,
) -> Result<(LoadedImages, Vec<T>), PreprocessError> {
    preprocess.validate()?;
    // the settings are valid and the row has the right length, so only the picture itself can fail here
    load(images, preprocess, limits, |_, image, row| {
        preprocess.apply_into(&image, row)?;
        Ok(also(&image))
    })
}

/// As [`load_images`], after a change of each picture's pixels; `change` gets the place in `images` and the picture. `None`: it cannot be changed
/// so, and counts as bad.
///
/// # Errors
/// [`PreprocessError`] for settings that cannot work.
pub fn load_images_changed<S: Borrow<ImageSource> + Sync>(
    images: &[S],
    preprocess: &Preprocess,
    limits: &Limits,
    change: impl Fn(usize, RgbImage) -> Option<RgbImage> + Sync,
) -> Result<LoadedImages, PreprocessError> {
    preprocess.validate()?;
    let loaded = load(images, preprocess, limits, |index, image, row| {
        let changed = change(index, image).ok_or_else(|| PreprocessError::new("it could not be changed".to_owned()))?;
        preprocess.apply_into(&changed, row)
    });
    Ok(loaded?.0)
}

/// As [`load_images`], with random changes in place of the resize and crop of `preprocess`; conventions, filter, size and normalisation are
/// its own. What happens to a picture depends on its own seed alone.
///
/// # Errors
/// [`PreprocessError`] for settings that cannot work, another number of seeds than pictures, and a tower that reads pictures of any
/// proportions.
pub fn load_images_augmented<S: Borrow<ImageSource> + Sync>(
    images: &[S],
    preprocess: &Preprocess,
    limits: &Limits,
    augment: &Augment,
    seeds: &[u64],
) -> Result<LoadedImages, PreprocessError> {
    augment.validate(preprocess)?;
    if seeds.len() != images.len() {
        let message = format!("{} pictures have {} seeds", images.len(), seeds.len());
        return Err(PreprocessError::new(message));
    }
    let loaded = load(images, preprocess, limits, |index, image, row| {
        preprocess.normalize(&augment.apply(&image, preprocess, seeds[index])?, row);
        Ok(())
    });
    Ok(loaded?.0)
}

fn load<S: Borrow<ImageSource> + Sync, T: Send>(
    images: &[S],
    preprocess: &Preprocess,
    limits: &Limits,
    transform: impl Fn(usize, RgbImage, &mut [f32]) -> Result<T, PreprocessError> + Sync,
) -> Result<(LoadedImages, Vec<T>), PreprocessError> {
    let values = preprocess.values();
    let mut pixels = vec![0.0; values * images.len()];
    let outcomes: Vec<Result<T, DecodeError>> = pixels
        .par_chunks_exact_mut(values)
        .zip(images)
        .enumerate()
        .map(|(index, (row, source))| {
            let image = source.borrow().open(limits, preprocess.conventions)?;
            transform(index, image, row).map_err(|e| DecodeError::Unsupported {
                what: format!("a picture of this shape ({e})"),
            })
        })
        .collect();
    let (mut good, mut bad) = (Vec::with_capacity(images.len()), Vec::new());
    let mut made = Vec::with_capacity(images.len());
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(one) => {
                made.push(one);
                if good.len() < index {
                    pixels.copy_within(index * values..(index + 1) * values, good.len() * values);
                }
                good.push(index);
            }
            Err(error) => bad.push(BadImage {
                index,
                image: images[index].borrow().clone(),
                error,
            }),
        }
    }
    pixels.truncate(good.len() * values);
    Ok((LoadedImages { pixels, good, bad }, made))
}
