//! From a decoded picture to what a tower reads: resize, crop, normalise; in training with random changes.

mod augment;
pub mod colour;
mod crop;
mod preprocess;
mod resize;

pub use augment::{Augment, Jitter};
pub use crop::{CropRounding, Rect, center_offset};
pub use preprocess::{Preprocess, PreprocessError, ResizeMode};
pub use resize::{Filter, resize, resize_region};
