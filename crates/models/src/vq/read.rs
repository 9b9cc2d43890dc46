//! Codes as a tower reads them: whole batches, and the codes' vectors.

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::layers::Pictures;

use super::{Codec, VqModel};

impl Codec {
    fn vq(&self) -> Option<&VqModel> {
        match self {
            Self::Pixels(vq) | Self::OnTiny { vq, .. } => Some(vq),
            Self::Tiny(_) => None,
        }
    }

    /// Width of a code's vector; `None` when there are no codes.
    pub fn code_dim(&self) -> Option<usize> {
        Some(self.vq()?.config().code_dim)
    }

    /// Codes of pictures, row by row, one picture after the other; `None` when there are no codes. Sides are multiples of [`Codec::factor`].
    ///
    /// # Shapes
    /// `[n·h·w, 3]` in −1…1 → `[n·h/factor·w/factor]`.
    pub fn read(&self, x: &Pictures) -> Option<Arc<[u32]>> {
        let vq = self.vq()?;
        let z = match self {
            Self::OnTiny { tiny, latents, .. } => {
                let pixels = x.with((x.x.clone() + 1.0) / 2.0);
                vq.encode(&latents.enter(&tiny.encode(&pixels)))
            }
            Self::Pixels(_) | Self::Tiny(_) => vq.encode(x),
        };
        Some(vq.quantize.codes(&z.x))
    }

    /// The vectors of codes, of length 1; `None` when there are no codes, or none of such a number.
    ///
    /// # Shapes
    /// `[rows]` → `[rows, dim]`.
    pub fn vectors(&self, codes: &Arc<[u32]>) -> Option<Tensor<2>> {
        let vq = self.vq()?;
        let known = codes.iter().all(|&code| (code as usize) < vq.config().codes);
        known.then(|| vq.quantize.lookup(codes).detach())
    }
}
