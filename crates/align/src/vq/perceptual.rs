//! How different two pictures look to a network that knows pictures: LPIPS without learnt weights (Zhang et al. 2018, arXiv 1801.03924, eq. 1) on EfficientNet-Lite
//! in place of VGG.

use bifocal_models::adapter::normalize;
use bifocal_models::vision::{EfficientNetLite, ImageBatch};
use bifocal_nn::engine::tensor;
use bifocal_nn::layers::Pictures;
use bifocal_nn::{Tensor, params};

/// What looks.
#[derive(Debug)]
pub(super) struct Perceptual {
    /// Frozen.
    eye: EfficientNetLite,
    /// Mean and deviation of the pixels that it reads, of 0…1.
    mean: [f32; 3],
    std: [f32; 3],
}

impl Perceptual {
    pub fn new(eye: EfficientNetLite, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            eye: params::set_trainable(eye, |_| false),
            mean,
            std,
        }
    }

    /// The last features at each resolution, of unit length at each position.
    fn features(&self, x: &Pictures) -> Vec<Tensor<2>> {
        let row = |v: [f32; 3]| tensor(v.to_vec(), [1, 3]);
        let pixels = ((x.x.clone() + 1.0) / 2.0 - row(self.mean)) / row(self.std);
        let [height, width] = x.size;
        let batch = ImageBatch {
            n: x.n,
            height,
            width,
            pixels,
        };
        self.eye.maps(&batch).into_iter().map(normalize).collect()
    }

    /// The squared distance of features, as a mean over positions and then over resolutions: 0 for equal pictures, 4 at most.
    ///
    /// # Shapes
    /// pictures in −1…1 of one size → `[1]`.
    pub fn distance(&self, made: &Pictures, real: &Pictures) -> Tensor<1> {
        let (made, real) = (self.features(made), self.features(real));
        let count = made.len() as f32;
        let each = made.into_iter().zip(real).map(|(made, real)| {
            let [positions, _] = made.dims();
            (made - real.detach()).powi_scalar(2).sum() / positions as f32
        });
        each.fold(tensor(vec![0.0], [1]), |sum, one| sum + one) / count
    }
}
