//! From files to batches: sources, decoding, transforms, the feature cache.
//!
//! Everything that is read here is hostile until checked: limits come before allocation, a bad row or a damaged
//! picture is counted and reported, and nothing that a file contains can end the process.

mod ahead;
pub mod atomic;
pub mod batches;
pub mod cache;
pub mod corrupt;
pub mod decode;
pub mod image;
pub mod load;
pub mod mix;
mod random;
pub mod source;
pub mod split;
#[cfg(feature = "parquet")]
pub mod table;
pub mod thumbnail;
pub mod transform;

pub use ahead::ahead;
pub use cache::{FeatureSpec, FeatureStore, ItemKey};
pub use decode::{Conventions, DecodeError, Limits, decode, open};
pub use image::RgbImage;
pub use load::{BadImage, LoadedImages, load_images, load_images_and, load_images_augmented, load_images_changed};
pub use mix::CaptionMix;
pub use source::{Dataset, ImageSource, Sample, SourceError};
pub use transform::{Augment, Filter, Jitter, Preprocess, ResizeMode};
