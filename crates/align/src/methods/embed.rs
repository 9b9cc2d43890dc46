//! From a batch to rows in the joint space, not normalised: towers, what disturbs features in training, heads.

use std::sync::Arc;

use bifocal_models::adapter::Head;
use bifocal_models::towers::Towers;
use bifocal_models::vision::{CodesError, VisionTower};
use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{Noise, Rows};
use bifocal_nn::{Tensor, noise};

use super::MethodError;
use crate::batch::{Images, Part, Texts};
use crate::random::{HEAD, NOISE, TOWER, mix};
use crate::recipe::HeadSpec;

/// What is done to a head's inputs in training, against learning them by heart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disturb {
    dropout: f32,
    noise: f32,
}

impl Disturb {
    pub fn of(head: &HeadSpec) -> Self {
        Self {
            dropout: head.input_dropout,
            noise: head.noise,
        }
    }

    /// Adds noise in units of each row's root mean square, then drops values. Numbers of a row depend on its place in the whole step.
    fn apply(self, x: Tensor<2>, draws: Draws) -> Tensor<2> {
        let [n, width] = x.dims();
        let mut x = x;
        if self.noise > 0.0 {
            let size = x.clone().detach().powi_scalar(2).mean_dim(1).sqrt();
            let row = |i: usize| {
                let mut rng = Rng::new(mix(draws.seed, NOISE, (draws.items + i) as u64));
                (0..width).map(move |_| self.noise * rng.normal())
            };
            x = x + tensor((0..n).flat_map(row).collect(), [n, width]) * size;
        }
        noise::dropout(x, self.dropout)
    }
}

/// Where random numbers of one side come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    seed: u64,
    /// Rows of tokens and of items that come before in the step.
    tokens: usize,
    items: usize,
}

impl Draws {
    /// For one part of a batch.
    pub fn new(seed: u64, part: Part, first: usize) -> Self {
        Self {
            seed: mix(seed, part as u64, 0),
            tokens: 0,
            items: first,
        }
    }

    fn scope<T>(self, run: impl FnOnce() -> T) -> T {
        noise::scope(Noise::new(self.seed).after(self.tokens, self.items), run)
    }
}

/// Rows of pictures as they leave the head.
///
/// # Shapes
/// `[n, e]`.
pub(super) fn images(
    towers: &Towers,
    images: &Images,
    disturb: Disturb,
    draws: Draws,
) -> Result<Tensor<2>, MethodError> {
    let head = &towers.image_head;
    let pixels = match images {
        Images::Features(features) => return Ok(rows(head, || features.clone(), disturb, draws)),
        Images::Patches { .. } | Images::Drawn { .. } => {
            return Err(MethodError::Tower {
                tower: "vision",
                message: "patches are read by a connector alone; this is a mistake in how the run was put together"
                    .to_owned(),
            });
        }
        Images::Codes { .. } => return Ok(of_codes(towers, images, disturb, draws)?.0),
        Images::Pixels(pixels) => pixels,
    };
    let tower = towers.vision.as_ref().ok_or(MethodError::NoTower {
        what: "pixels",
        tower: "vision",
    })?;
    let draws = Draws {
        tokens: draws.items * (tower.tokens(pixels) / pixels.n.max(1)),
        ..draws
    };
    // sites are counted anew in the head's scope, so that the tower needs a seed of its own
    let in_tower = Draws {
        seed: mix(draws.seed, TOWER, 0),
        ..draws
    };
    let patches = || in_tower.scope(|| tower.patches(pixels));
    let Some((patches, each)) = head.reads_patches().then(patches).flatten() else {
        return Ok(rows(head, || tower.embed(pixels), disturb, draws));
    };
    let over_patches = |draws: Draws| {
        let x = disturb.apply(patches, draws);
        head.over_patches(x, each, true)
    };
    let draws = Draws {
        tokens: draws.items * each,
        items: draws.items * each,
        ..draws
    };
    Ok(draws.scope(|| over_patches(draws)))
}

/// As [`images`], and what each token is after the final norm, for a tower that reads codes.
///
/// # Shapes
/// `[n, e]` and `[n, tokens·width]`.
pub(super) fn images_and_tokens(
    towers: &Towers,
    images: &Images,
    disturb: Disturb,
    draws: Draws,
) -> Result<[Tensor<2>; 2], MethodError> {
    let (rows, tokens) = of_codes(towers, images, disturb, draws)?;
    let ([n, _], [all, width]) = (rows.dims(), tokens.dims());
    Ok([rows, tokens.reshape([n, all / n.max(1) * width])])
}

/// Rows of pictures by their codes, and `[n·tokens, width]` of their tokens.
fn of_codes(
    towers: &Towers,
    images: &Images,
    disturb: Disturb,
    draws: Draws,
) -> Result<(Tensor<2>, Tensor<2>), MethodError> {
    let trouble = |message: String| MethodError::Tower {
        tower: "vision",
        message,
    };
    let missing = MethodError::NoTower {
        what: "codes",
        tower: "vision",
    };
    let tower = towers.vision.as_ref().and_then(VisionTower::token_encoder);
    let tower = tower.ok_or(missing)?;
    let codes = match images {
        Images::Codes { codes, .. } => Arc::clone(codes),
        Images::Pixels(pixels) => (tower.codes(pixels)).ok_or_else(|| trouble(CodesError::NoCodes.to_string()))?,
        Images::Features(_) | Images::Patches { .. } | Images::Drawn { .. } => {
            return Err(MethodError::NoRows { part: Part::Tokens });
        }
    };
    let each = tower.tokens_of_a_picture();
    let within = Draws {
        tokens: draws.items * each,
        ..draws
    };
    let embedded = within.scope(|| tower.embed_codes(&codes));
    let [pooled, tokens] = embedded.map_err(|error| trouble(error.to_string()))?;
    let draws = Draws {
        seed: mix(draws.seed, HEAD, 0),
        ..draws
    };
    Ok((rows(&towers.image_head, || pooled, disturb, draws), tokens))
}

/// What the text tower makes of texts.
///
/// # Shapes
/// `[m, width]`.
pub(super) fn text_features(towers: &Towers, texts: &Texts, draws: Draws) -> Result<Tensor<2>, MethodError> {
    match texts {
        Texts::Features(features) => Ok(features.clone()),
        Texts::Dialogues(_) => Err(MethodError::Tower {
            tower: "text",
            message: "dialogues are not embedded; this is a mistake in how the run was put together".to_owned(),
        }),
        Texts::Tokens(tokens) => {
            let tower = towers.text.as_ref().ok_or(MethodError::NoTower {
                what: "tokens",
                tower: "text",
            })?;
            tower.check(&tokens.batch).map_err(|error| MethodError::Tower {
                tower: "text",
                message: error.to_string(),
            })?;
            let draws = Draws {
                tokens: tokens.before,
                ..draws
            };
            Ok(draws.scope(|| tower.embed(&tokens.batch, tokens.pooling)))
        }
    }
}

/// Rows of texts as they leave the head.
///
/// # Shapes
/// `[m, e]`.
pub(super) fn texts(towers: &Towers, texts: &Texts, disturb: Disturb, draws: Draws) -> Result<Tensor<2>, MethodError> {
    let features = text_features(towers, texts, draws)?;
    let draws = Draws {
        seed: mix(draws.seed, HEAD, 0),
        ..draws
    };
    Ok(rows(&towers.text_head, || features, disturb, draws))
}

/// What a head makes of features; all of it with the dropout of training.
fn rows(head: &Head, features: impl FnOnce() -> Tensor<2>, disturb: Disturb, draws: Draws) -> Tensor<2> {
    draws.scope(|| {
        let features = features();
        noise::rows(Rows::Items, || {
            let x = disturb.apply(features, draws);
            head.forward(x, true)
        })
    })
}
