//! Images of another size than a vision transformer was trained on: its table of positions is resampled as a picture is.

use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::{Param, Tensor};

use super::{Vit, VitConfig, VitFamily};

/// A side that a tower cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tower cannot read images of {side}×{side} pixels: {problem}")]
pub struct ImageSizeError {
    /// The side that was asked for, in pixels.
    pub side: usize,
    /// Why not, and what to do.
    pub problem: &'static str,
}

impl Vit {
    /// The same tower for squares of another size: whenever it runs, its table of positions is resampled from the trained grid to the one
    /// of the image, bicubic, as the library of its checkpoint does (transformers' `interpolate_pos_encoding`, open_clip's
    /// `resize_pos_embed`). Pixels beyond the last whole patch are not read.
    ///
    /// # Errors
    /// [`ImageSizeError`] for a side below a patch or beyond 4096.
    pub fn with_image_size(mut self, side: usize) -> Result<Self, ImageSizeError> {
        let refuse = |problem| Err(ImageSizeError { side, problem });
        if side < self.config.patch {
            return refuse("a patch is larger; take a larger size");
        }
        if side > crate::MAX_IMAGE_SIZE {
            return refuse("4096 is the most; take a smaller size");
        }
        let trained = self.config.trained();
        self.config = Arc::new(VitConfig {
            image_size: side,
            trained_size: (trained != side).then_some(trained),
            ..(*self.config).clone()
        });
        Ok(self)
    }

    /// Positions for a grid of rows and columns: `[tokens without registers, c]`.
    pub(super) fn positions(&self, grid: [usize; 2]) -> Tensor<2> {
        let c = &*self.config;
        let from = c.trained_grid();
        if grid == [from; 2] {
            return self.positions.val();
        }
        let filter = match c.family {
            VitFamily::NaFlex => Filter::BILINEAR,
            _ => Filter::bicubic(c.antialias),
        };
        resampled(&self.positions, usize::from(c.family.has_class()), from, grid, filter)
    }
}

/// A table of a square grid for another grid; special rows before it stay.
///
/// # Shapes
/// `[special + from², c]` → `[special + to[0]·to[1], c]`.
fn resampled(table: &Param<Tensor<2>>, special: usize, from: usize, to: [usize; 2], filter: Filter) -> Tensor<2> {
    let table = table.val();
    let [rows, c] = table.dims();
    let grid = table.clone().slice([special..rows, 0..c]);
    let [height, width] = to;
    let tall = matrix(from, height, filter).matmul(grid.reshape([from, from * c]));
    let columns = matrix(from, width, filter)
        .reshape([1, width, from])
        .expand([height, width, from]);
    let resized = columns
        .matmul(tall.reshape([height, from, c]))
        .reshape([height * width, c]);
    Tensor::cat(vec![table.slice([0..special, 0..c]), resized], 0)
}

/// How a table is resampled.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    /// The kernel and how far it reaches.
    kernel: fn(f64) -> f64,
    support: f64,
    /// Whether the kernel widens when a table shrinks.
    antialias: bool,
}

impl Filter {
    /// PyTorch's bilinear with antialiasing.
    const BILINEAR: Self = Self {
        kernel: |x| (1.0 - x.abs()).max(0.0),
        support: 1.0,
        antialias: true,
    };

    /// PyTorch's bicubic: with antialiasing it is Pillow's (a = −0.5), without it OpenCV's (a = −0.75).
    pub fn bicubic(antialias: bool) -> Self {
        Self {
            kernel: if antialias {
                |x| cubic(x, -0.5)
            } else {
                |x| cubic(x, -0.75)
            },
            support: 2.0,
            antialias,
        }
    }
}

/// Keys' cubic kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// Weights of input places for each output place, `[to, from]`; centres at half pixels.
fn matrix(from: usize, to: usize, filter: Filter) -> Tensor<2> {
    let scale = from as f64 / to as f64;
    let stretch = if filter.antialias { scale.max(1.0) } else { 1.0 };
    let reach = filter.support * stretch + 1.0;
    let last = from.saturating_sub(1) as i64;
    let mut weights = Vec::with_capacity(from * to);
    for i in 0..to {
        let centre = (i as f64 + 0.5) * scale;
        let mut row = vec![0.0; from];
        for j in (centre - reach).floor() as i64..=(centre + reach).ceil() as i64 {
            // without antialiasing the border's value goes on outside; with it, the outside does not count
            if !filter.antialias || (0..=last).contains(&j) {
                row[j.clamp(0, last) as usize] += (filter.kernel)((j as f64 + 0.5 - centre) / stretch);
            }
        }
        let total: f64 = row.iter().sum();
        weights.extend(row.into_iter().map(|weight| (weight / total) as f32));
    }
    tensor(weights, [to, from])
}
