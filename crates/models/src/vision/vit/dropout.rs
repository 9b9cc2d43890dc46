//! Patches that are left out in training, which saves as much of the blocks' work (Li et al. 2022, FLIP, arXiv 2212.00794; open_clip's and timm's
//! `PatchDropout`).

use std::sync::Arc;

use bifocal_nn::{fused, noise};

use super::{Placed, Tokens, Vit};

impl Vit {
    /// The same tower, which leaves this share of each picture's patches out where dropout has its numbers from a scope ([`bifocal_nn::noise`]), as in
    /// training; elsewhere it sees all of them. `None` for a tower of codes, and for what is no share below 1.
    ///
    /// Class token and registers stay. A patch has its position before others are left out, so that those that stay know where they are. It is nothing that a
    /// checkpoint of the tower knows of.
    pub fn with_patch_dropout(mut self, share: f64) -> Option<Self> {
        let fits = matches!(self.patches, Tokens::Patches(_)) && (0.0..1.0).contains(&share);
        self.patch_dropout = share;
        fits.then_some(self)
    }

    /// How many of a picture's patches stay in training: the share of them that is not left out, rounded down, but one at least.
    pub fn patches_in_training(&self, patches: usize) -> usize {
        // below 2⁵³, and as the libraries round
        ((patches as f64 * (1.0 - self.patch_dropout)) as usize).clamp(1, patches.max(1))
    }

    /// Leaves out some of the patches of `n` images, `area` of each, in a scope of dropout.
    pub(super) fn drop_patches(&self, all: Placed, n: usize, area: usize) -> Placed {
        let keep = self.patches_in_training(area);
        let chosen = (keep < area).then(|| noise::choices(n, area, keep)).flatten();
        let Some(chosen) = chosen else {
            return all;
        };
        let special = all.each - area;
        let each = special + keep;
        // far fewer than 2³² rows fit into memory
        let (first, whole) = (special as u32, all.each as u32);
        let mut places = Vec::with_capacity(n * each);
        for of_image in chosen.chunks_exact(keep) {
            places.extend(0..first);
            places.extend(of_image.iter().map(|patch| first + patch));
        }
        let images = places.chunks_exact(each).zip(0u32..);
        let rows: Arc<[u32]> = images
            .flat_map(|(places, image)| places.iter().map(move |place| image * whole + place))
            .collect();
        Placed {
            x: fused::embedding(all.x, &rows),
            each,
            places: Some(places),
        }
    }
}
