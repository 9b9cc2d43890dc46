//! Heads: from a tower's embedding into the joint space.

mod mlp;
mod qformer;

pub use mlp::{BatchNorm, MlpHead};
pub use qformer::{QFormerHead, Read};

use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{LayerNorm, Linear, zeros};
use bifocal_nn::{Module, Param, Tensor, noise};
use serde::{Deserialize, Serialize};

use crate::connector::flamingo::{Flamingo, FlamingoConfig};
use crate::connector::qformer::QFormerConfig;

/// The layer norms of heads, PyTorch's default.
const EPS: f32 = 1e-5;
/// SAIL cuts what goes into its product to ± this.
const GLU_LIMIT: f32 = 1e3;
/// Below this a row is divided by this in place of its norm, as PyTorch's `normalize` does.
const NORM_FLOOR: f32 = 1e-12;

/// Kinds of heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// Nothing: the tower already embeds into the joint space.
    #[default]
    Identity,
    /// One linear layer.
    Linear,
    /// SAIL's gated head (Zhang et al. 2025): norm, then G(ReLU6(F₁x) ⊙ F₂x).
    Glu,
    /// LLM2CLIP's adaptor (Huang et al. 2024): pre-norm residual blocks, then norm and linear.
    Residual,
    /// Linear layers with an activation between them, and perhaps batch normalisation (LIFT, ShareLock).
    Mlp,
    /// An MLP and a norm over each patch of a picture, then their mean (FLAME). Only for vision towers that have patches.
    Patches,
    /// BLIP-2's (Li et al. 2023): learnt queries look at the patches, and a layer makes rows for a language model of them.
    QFormer,
    /// Flamingo's (Alayrac et al. 2022): a resampler, and gated layers between those of a language model, which looks through them.
    Flamingo,
}

/// The activation of an MLP head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadActivation {
    /// With the error function (LIFT, FLAME).
    #[default]
    Gelu,
    /// ShareLock.
    Relu,
}

/// How a head is built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Which head.
    pub kind: HeadKind,
    /// Width of its output; the identity has that of its input.
    pub width: Option<usize>,
    /// Residual: how many blocks. LLM2CLIP has 4.
    pub blocks: usize,
    /// MLP: how many linear layers. LIFT has 2, ShareLock 4.
    pub layers: usize,
    /// Width of the hidden layers as a multiple of the input; for an MLP 0 means that of its output. LLM2CLIP has 2, SAIL 8, ShareLock 1,
    /// LIFT 0.
    pub ratio: usize,
    /// MLP: what is between two layers.
    pub activation: HeadActivation,
    /// MLP: whether batch normalisation comes before the activation.
    pub batch_norm: bool,
    /// Probability of dropping a hidden value in training.
    pub dropout: f32,
    /// Whether inputs are brought to length 1 first, as LLM2CLIP does with cached embeddings.
    pub normalize_input: bool,
    /// Whether the linear head has a bias.
    pub bias: bool,
    /// Sizes of the Q-Former, and of nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qformer: Option<QFormerConfig>,
    /// Sizes of resampler and gated layers, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flamingo: Option<FlamingoConfig>,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            kind: HeadKind::Identity,
            width: None,
            blocks: 4,
            layers: 2,
            ratio: 2,
            activation: HeadActivation::Gelu,
            batch_norm: false,
            dropout: 0.0,
            normalize_input: false,
            bias: true,
            qformer: None,
            flamingo: None,
        }
    }
}

/// A head that cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// No width for a head that needs one.
    #[error("a {0:?} head needs `width`, the width of the joint space; set it in the recipe")]
    NoWidth(HeadKind),
    /// An identity head with another width than its input.
    #[error("an identity head gives {input} values, not `width` = {width}; take a linear head, or leave `width` out")]
    IdentityWidth {
        /// Width of its input.
        input: usize,
        /// The width asked for.
        width: usize,
    },
    /// A number that cannot be.
    #[error("a head's `{field}` is {value}, it must be {allowed}; correct it in the recipe")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        allowed: &'static str,
    },
}

/// The largest width and number of blocks of a head.
const MAX_WIDTH: usize = 1 << 16;
const MAX_BLOCKS: usize = 64;

impl HeadConfig {
    fn check(&self, input: usize) -> Result<(), HeadError> {
        let field = |field, value: String, allowed| Err(HeadError::Field { field, value, allowed });
        let width = self.width.unwrap_or(input);
        if width == 0 || width > MAX_WIDTH {
            return field("width", width.to_string(), "1…65536");
        }
        if self.blocks == 0 || self.blocks > MAX_BLOCKS {
            return field("blocks", self.blocks.to_string(), "1…64");
        }
        if self.layers == 0 || self.layers > MAX_BLOCKS {
            return field("layers", self.layers.to_string(), "1…64");
        }
        let mlp = matches!(
            self.kind,
            HeadKind::Mlp | HeadKind::Patches | HeadKind::QFormer | HeadKind::Flamingo
        );
        if (self.ratio == 0 && !mlp) || self.ratio > MAX_BLOCKS {
            return field("ratio", self.ratio.to_string(), "1…64, or for an MLP 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return field("dropout", self.dropout.to_string(), "0 or more and below 1");
        }
        match (self.kind, &self.qformer) {
            (HeadKind::QFormer, None) => field("qformer", "not there".to_owned(), "the sizes of a Q-Former"),
            (HeadKind::QFormer, Some(qformer)) => check_qformer(qformer, input),
            (HeadKind::Flamingo, _) => match &self.flamingo {
                None => field("flamingo", "not there".to_owned(), "the sizes of a resampler"),
                Some(flamingo) => check_flamingo(flamingo, input),
            },
            _ => Ok(()),
        }
    }

    /// Builds the head for inputs of width `input`.
    ///
    /// # Errors
    /// [`HeadError`] when the settings cannot be.
    pub fn build(&self, input: usize, rng: &mut Rng) -> Result<Head, HeadError> {
        self.check(input)?;
        let needed = || self.width.ok_or(HeadError::NoWidth(self.kind));
        let unit = self.normalize_input;
        Ok(match self.kind {
            HeadKind::Identity => match self.width {
                Some(width) if width != input => {
                    return Err(HeadError::IdentityWidth { input, width });
                }
                _ => Head::Identity(IdentityHead { unit, width: input }),
            },
            HeadKind::Linear => Head::Linear(LinearHead {
                linear: Linear::new(input, needed()?, self.bias, rng),
                unit,
            }),
            HeadKind::Glu => {
                let (width, hidden) = (needed()?, self.ratio * input);
                Head::Glu(GluHead {
                    norm: LayerNorm::new(input, EPS),
                    gate: xavier(input, hidden, rng),
                    value: xavier(input, hidden, rng),
                    out: xavier(hidden, width, rng),
                    unit,
                    dropout: self.dropout,
                })
            }
            HeadKind::Residual => {
                let (width, hidden) = (needed()?, self.ratio * input);
                let block = |rng: &mut Rng| ResidualBlock {
                    norm: LayerNorm::new(input, EPS),
                    fc: Linear::new(input, hidden, true, rng),
                    proj: Linear::new(hidden, input, true, rng),
                };
                Head::Residual(ResidualHead {
                    blocks: (0..self.blocks).map(|_| block(rng)).collect(),
                    norm: LayerNorm::new(input, EPS),
                    out: Linear::new(input, width, true, rng),
                    unit,
                    dropout: self.dropout,
                })
            }
            HeadKind::Mlp => Head::Mlp(MlpHead::new(self, input, needed()?, rng)),
            HeadKind::Flamingo => {
                let Some(flamingo) = &self.flamingo else {
                    unreachable!("it was checked to be there");
                };
                Head::Flamingo(Flamingo::new(flamingo.clone(), needed()?, rng))
            }
            HeadKind::QFormer => {
                let Some(qformer) = &self.qformer else {
                    unreachable!("it was checked to be there");
                };
                Head::QFormer(QFormerHead::new(qformer, needed()?, rng))
            }
            HeadKind::Patches => Head::Patches(PatchesHead {
                mlp: MlpHead::new(self, input, needed()?, rng),
                norm: LayerNorm::new(needed()?, EPS),
            }),
        })
    }
}

/// Sizes that come from a file are checked before anything is allocated for them.
fn check_qformer(c: &QFormerConfig, input: usize) -> Result<(), HeadError> {
    let mut sizes = vec![
        ("qformer.width", c.width, 1 << 13),
        ("qformer.layers", c.layers, MAX_BLOCKS),
        ("qformer.mlp", c.mlp, 1 << 15),
        ("qformer.queries", c.queries, 1 << 12),
        ("qformer.cross_every", c.cross_every, MAX_BLOCKS),
    ];
    if let Some(text) = &c.text {
        sizes.extend([
            ("qformer.text.vocabulary", text.vocabulary, 1 << 20),
            ("qformer.text.positions", text.positions, 1 << 16),
            ("qformer.text.dim", text.dim, 1 << 14),
        ]);
    }
    let wrong = |field, value: usize, allowed| {
        Err(HeadError::Field {
            field,
            value: value.to_string(),
            allowed,
        })
    };
    if let Some(&(field, value, _)) = sizes.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
        return wrong(field, value, "1 or more, and no more than any such model has");
    }
    if c.heads == 0 || !c.width.is_multiple_of(c.heads) {
        return wrong("qformer.heads", c.heads, "a divisor of the width");
    }
    match c.image_width == input {
        true => Ok(()),
        false => wrong("qformer.image_width", c.image_width, "the width of the tower's patches"),
    }
}

/// As [`check_qformer`].
fn check_flamingo(c: &FlamingoConfig, input: usize) -> Result<(), HeadError> {
    let sizes = [
        ("flamingo.latents", c.latents, 1 << 12),
        ("flamingo.layers", c.layers, MAX_BLOCKS),
        ("flamingo.heads", c.heads, 1 << 7),
        ("flamingo.head", c.head, 1 << 9),
        ("flamingo.every", c.every, c.text_layers),
        ("flamingo.text_layers", c.text_layers, 1 << 10),
        // the patches that it was made for
        ("flamingo.image_width", c.image_width.abs_diff(input) + 1, 1),
    ];
    match sizes.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
        None => Ok(()),
        Some(&(field, value, _)) => Err(HeadError::Field {
            field,
            value: value.to_string(),
            allowed: "1 or more, no more than any such model has, and what the towers are made for",
        }),
    }
}

/// A head.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are one or two in a process
pub enum Head {
    /// See [`HeadKind::Identity`].
    Identity(IdentityHead),
    /// See [`HeadKind::Linear`].
    Linear(LinearHead),
    /// See [`HeadKind::Glu`].
    Glu(GluHead),
    /// See [`HeadKind::Residual`].
    Residual(ResidualHead),
    /// See [`HeadKind::Mlp`].
    Mlp(MlpHead),
    /// See [`HeadKind::Patches`].
    Patches(PatchesHead),
    /// See [`HeadKind::QFormer`].
    QFormer(QFormerHead),
    /// See [`HeadKind::Flamingo`].
    Flamingo(Flamingo),
}

impl Head {
    /// Maps embeddings into the joint space; they are not normalised. Dropout happens within a [`noise::scope`]; batch normalisation takes
    /// the batch's own statistics in `training`.
    ///
    /// # Shapes
    /// `[n, input]` → `[n, dim]`. A head over patches takes each row for a picture of one patch, see [`Head::over_patches`]; so does a Q-Former, which
    /// gives `[n·queries, dim]`, see [`Head::connect`].
    pub fn forward(&self, x: Tensor<2>, training: bool) -> Tensor<2> {
        match self {
            Self::Identity(head) => enter(x, head.unit),
            Self::Linear(head) => head.linear.forward(enter(x, head.unit)),
            Self::Glu(head) => head.forward(x),
            Self::Residual(head) => head.forward(x),
            Self::Mlp(head) => head.forward(x, training),
            Self::Patches(head) => head.norm.forward(head.mlp.forward(x, training)),
            Self::QFormer(head) => {
                let n = x.dims()[0];
                head.rows(x, n)
            }
            Self::Flamingo(head) => head.marks(x.dims()[0]),
        }
    }

    /// What stands in place of pictures in a text, given their patches, and how many rows a picture is: one for each patch, or for each query of a Q-Former; for Flamingo the mark.
    ///
    /// # Shapes
    /// `[n·patches, input]` → `[n·rows, dim]`.
    pub fn connect(&self, x: Tensor<2>, patches: usize, training: bool) -> (Tensor<2>, usize) {
        let rows = match self {
            Self::QFormer(head) => {
                let n = x.dims()[0] / patches.max(1);
                head.rows(x, n)
            }
            Self::Flamingo(head) => head.marks(x.dims()[0] / patches.max(1)),
            _ => self.forward(x, training),
        };
        (rows, self.connected(patches))
    }

    /// How many rows [`Head::connect`] makes of a picture of so many patches.
    pub fn connected(&self, patches: usize) -> usize {
        match self {
            Self::QFormer(head) => head.config().queries,
            Self::Flamingo(_) => 1,
            _ => patches,
        }
    }

    /// As [`Head::forward`] for pictures given by their patches: for a head over patches the mean of what it makes of them.
    ///
    /// # Shapes
    /// `[n·patches, input]` → `[n, dim]`.
    pub fn over_patches(&self, x: Tensor<2>, patches: usize, training: bool) -> Tensor<2> {
        let n = x.dims()[0] / patches.max(1);
        let (rows, each) = self.connect(x, patches, training);
        fused::segment_mean(rows, &(0..=n).map(|i| i * each).collect())
    }

    /// Whether it wants the patches of a picture in place of one vector.
    pub fn reads_patches(&self) -> bool {
        matches!(self, Self::Patches(_) | Self::QFormer(_) | Self::Flamingo(_))
    }

    /// After a step of training: statistics of the batches that passed move the running ones.
    pub fn settle(&mut self) {
        if let Self::Mlp(MlpHead { layers, .. })
        | Self::Patches(PatchesHead {
            mlp: MlpHead { layers, .. },
            ..
        }) = self
        {
            layers
                .iter_mut()
                .filter_map(|l| l.norm.as_mut())
                .for_each(BatchNorm::settle);
        }
    }

    /// Width of its output.
    pub fn dim(&self) -> usize {
        let rows = |linear: &Linear| linear.weight.val().dims()[0];
        match self {
            Self::Identity(head) => head.width,
            Self::Linear(head) => rows(&head.linear),
            Self::Glu(head) => rows(&head.out),
            Self::Residual(head) => rows(&head.out),
            Self::Mlp(head) | Self::Patches(PatchesHead { mlp: head, .. }) => rows(&head.out),
            Self::QFormer(head) => head.dim(),
            Self::Flamingo(head) => head.dim(),
        }
    }
}

/// See [`HeadKind::Identity`].
#[derive(Module, Debug)]
pub struct IdentityHead {
    #[module(skip)]
    unit: bool,
    #[module(skip)]
    width: usize,
}

/// See [`HeadKind::Linear`].
#[derive(Module, Debug)]
pub struct LinearHead {
    linear: Linear,
    #[module(skip)]
    unit: bool,
}

/// See [`HeadKind::Glu`].
#[derive(Module, Debug)]
pub struct GluHead {
    norm: LayerNorm,
    gate: Linear,
    value: Linear,
    out: Linear,
    #[module(skip)]
    unit: bool,
    #[module(skip)]
    dropout: f32,
}

impl GluHead {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.norm.forward(enter(x, self.unit));
        // ReLU6 leaves nothing of the gate beyond 6, cutting it at ±1000 first changes nothing
        let gate = self.gate.fused(x.clone(), Activation::Relu6, None);
        let value = self.value.forward(x).clamp(-GLU_LIMIT, GLU_LIMIT);
        self.out.forward(noise::dropout(gate * value, self.dropout))
    }
}

/// See [`HeadKind::Patches`].
#[derive(Module, Debug)]
pub struct PatchesHead {
    mlp: MlpHead,
    norm: LayerNorm,
}

/// See [`HeadKind::Residual`].
#[derive(Module, Debug)]
pub struct ResidualHead {
    blocks: Vec<ResidualBlock>,
    norm: LayerNorm,
    out: Linear,
    #[module(skip)]
    unit: bool,
    #[module(skip)]
    dropout: f32,
}

/// x + W₂·GELU(W₁·norm(x) + b₁) + b₂.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    norm: LayerNorm,
    /// `[ratio·c, c]`.
    fc: Linear,
    /// `[c, ratio·c]`.
    proj: Linear,
}

impl ResidualHead {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mut x = enter(x, self.unit);
        for block in &self.blocks {
            let h = block.norm.forward(x.clone());
            let h = block.fc.fused(h, Activation::GeluErf, None);
            let h = noise::dropout(h, self.dropout);
            x = block.proj.fused(h, Activation::Identity, Some(x));
        }
        self.out.forward(self.norm.forward(x))
    }
}

/// A linear layer with uniform weights in ±√(6 / (in + out)) and zero biases (Glorot & Bengio 2010).
fn xavier(din: usize, dout: usize, rng: &mut Rng) -> Linear {
    let bound = (6.0 / (din + dout) as f32).sqrt();
    let weight = Init::Uniform(bound).tensor([dout, din], rng);
    Linear::from_params(Param::from_tensor(weight), Some(zeros([dout])))
}

fn enter(x: Tensor<2>, unit: bool) -> Tensor<2> {
    if unit { normalize(x) } else { x }
}

/// Rows of length 1 (PyTorch's `normalize`: a row shorter than 1e-12 is divided by that).
///
/// # Shapes
/// `[n, c]` → `[n, c]`.
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    // the root of a sum below the floor has no useful gradient, so the sum is cut, not the root
    let square = x.clone().powi_scalar(2).sum_dim(1);
    x / square.clamp_min(NORM_FLOOR * NORM_FLOOR).sqrt()
}
