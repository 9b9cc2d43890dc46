//! From a decoded picture to what a tower reads: resize, crop, normalise.

mod crop;
mod preprocess;
mod resize;

pub use crop::{CropRounding, Rect, center_offset};
pub use preprocess::{Preprocess, PreprocessError, ResizeMode};
pub use resize::{Filter, resize, resize_region};
