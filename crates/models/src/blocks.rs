//! The transformer block that towers share: norms before attention and before the feed-forward part.

use std::path::Path;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, AttentionShape, KeyValues};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Before, LayerNorm, Linear, feed_forward, ones, zeros};
use bifocal_nn::noise::{self, Rows};
use bifocal_nn::{Module, Param, Tensor, checkpoint, plain, trace};
use serde::{Deserialize, Serialize};

use crate::load::Loader;
use crate::names::{Names, Qkv};
use crate::weights::WeightsError;

/// CLIP's layer norms.
pub(crate) const EPS: f32 = 1e-5;

/// Which GELU a transformer was trained with. The wrong one costs several points and no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    /// x·σ(1.702x): OpenAI, DFN, MetaCLIP 1.
    Quick,
    /// x·Φ(x): LAION, DataComp, BERT.
    Erf,
    /// The tanh approximation of Φ: SigLIP.
    Tanh,
}

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        match gelu {
            Gelu::Quick => Self::QuickGelu,
            Gelu::Erf => Self::GeluErf,
            Gelu::Tanh => Self::GeluTanh,
        }
    }
}

/// Sizes of a stack of blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Width between the two layers of the feed-forward part.
    pub mlp: usize,
    /// Its activation.
    pub gelu: Gelu,
    /// The constant of its norms. Where this and what follows is missing, it is as in CLIP.
    #[serde(default = "clip_eps")]
    pub eps: f32,
    /// Whether what each half of a block adds is scaled channel by channel (Touvron et al. 2021).
    #[serde(default)]
    pub layer_scale: bool,
    /// Whether the feed-forward part is a SwiGLU (Shazeer 2020), in place of one layer with the activation.
    #[serde(default)]
    pub swiglu: bool,
    /// Whether both halves of a block have a norm before their last layer too (Wang et al. 2022, "Foundation Transformers").
    #[serde(default)]
    pub sub_norms: bool,
}

fn clip_eps() -> f32 {
    EPS
}

/// More than any transformer of its kind, and small enough that products of two of them do not overflow.
const MAX_SIZE: usize = 1 << 17;

/// Checks numbers that came from a file before anything is allocated for them.
pub(crate) fn check_sizes(path: &Path, sizes: &[(&str, usize)]) -> Result<(), WeightsError> {
    for &(key, value) in sizes {
        if value == 0 || value > MAX_SIZE {
            return Err(WeightsError::metadata(
                path,
                key,
                format!("is {value}, not in 1…{MAX_SIZE}"),
            ));
        }
    }
    Ok(())
}

/// Checks that attention heads divide the width.
pub(crate) fn check_heads(path: &Path, width: usize, heads: usize) -> Result<(), WeightsError> {
    check_sizes(path, &[("width", width), ("heads", heads)])?;
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(WeightsError::metadata(
        path,
        "heads",
        format!("is {heads}, which does not divide the width {width}"),
    ))
}

/// Checks the constant of norms: without one, a row of equal values would not be a number.
fn check_eps(path: &Path, eps: f32) -> Result<(), WeightsError> {
    if eps > 0.0 && eps < 1.0 {
        return Ok(());
    }
    Err(WeightsError::metadata(
        path,
        "eps",
        format!("is {eps}, not between 0 and 1"),
    ))
}

impl StackConfig {
    pub(crate) fn check(&self, path: &Path) -> Result<(), WeightsError> {
        check_heads(path, self.width, self.heads)?;
        check_sizes(path, &[("layers", self.layers), ("mlp", self.mlp)])?;
        check_eps(path, self.eps)
    }

    /// Blocks as CLIP's.
    pub fn new(width: usize, layers: usize, heads: usize, mlp: usize, gelu: Gelu) -> Self {
        Self {
            width,
            layers,
            heads,
            mlp,
            gelu,
            eps: EPS,
            layer_scale: false,
            swiglu: false,
            sub_norms: false,
        }
    }

    fn attention(&self, causal: bool) -> AttentionShape {
        let head_dim = self.width / self.heads;
        AttentionShape {
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            causal,
            window: None,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// What blocks need to run.
    pub(crate) fn pass(&self, offsets: &Arc<[usize]>, causal: bool) -> Pass {
        Pass {
            offsets: Arc::clone(offsets),
            attention: self.attention(causal),
            rotation: None,
            gelu: self.gelu,
        }
    }

    /// The first layer of the feed-forward part, which is two in one for a SwiGLU.
    fn first(&self, fc: Linear) -> Linear {
        if self.swiglu {
            fc.with_parts(&gate_up_parts(self.mlp))
        } else {
            fc
        }
    }

    /// The blocks of a file, below `prefix`.
    pub(crate) fn load(&self, loader: Loader, prefix: &str, names: &Names) -> Result<Vec<Block>, WeightsError> {
        (0..self.layers)
            .map(|i| Block::load(self, loader, &format!("{prefix}.{i}"), names))
            .collect()
    }

    /// Blocks with OpenAI's initial values: spec `initialize_parameters` of its text transformer.
    pub(crate) fn init(&self, rng: &mut Rng) -> Vec<Block> {
        (0..self.layers).map(|_| Block::new(self, rng)).collect()
    }
}

/// What a block needs besides its rows.
#[derive(Clone)]
pub(crate) struct Pass {
    /// Where each sequence begins, then the number of rows.
    pub offsets: Arc<[usize]>,
    pub attention: AttentionShape,
    /// Angles of rotary positions.
    pub rotation: Option<Rotation>,
    pub gelu: Gelu,
}

/// Cosines and sines of rotary positions, `[tokens, head_dim / 2]` each, the same for every sequence, or of all rows of all sequences.
#[derive(Clone)]
pub(crate) struct Rotation {
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
}

impl Rotation {
    /// For rows of which each is this token of its sequence.
    pub fn of_rows(self, tokens: &Arc<[u32]>) -> Self {
        Self {
            cos: fused::embedding(self.cos, tokens),
            sin: fused::embedding(self.sin, tokens),
        }
    }
}

/// Queries, keys and values, each of which has its own adapter ([`bifocal_nn::lora`]).
pub(crate) fn qkv_parts(q: usize, kv: usize) -> [(&'static str, usize); 3] {
    [("q", q), ("k", kv), ("v", kv)]
}

/// A gate and what it gates, each of which has its own adapter.
pub(crate) fn gate_up_parts(width: usize) -> [(&'static str, usize); 2] {
    [("gate", width), ("up", width)]
}

/// One block: x ← x + attention(norm(x)); x ← x + mlp(norm(x)).
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    ln_1: LayerNorm,
    /// `[3c, c]`: queries, keys, values.
    qkv: Linear,
    /// Before the output layer.
    ln_out: Option<LayerNorm>,
    /// `[c, c]`.
    out: Linear,
    /// `[c]`: factors of what attention adds.
    scale_1: Option<Param<Tensor<1>>>,
    /// Before the feed-forward part.
    ln_2: LayerNorm,
    /// `[mlp, c]`; `[2·mlp, c]`, gate first, for a SwiGLU.
    fc: Linear,
    /// Before the last layer.
    ln_proj: Option<LayerNorm>,
    /// `[c, mlp]`.
    proj: Linear,
    /// `[c]`: factors of what the feed-forward part adds.
    scale_2: Option<Param<Tensor<1>>>,
}

impl Block {
    fn new(config: &StackConfig, rng: &mut Rng) -> Self {
        let (width, mlp, eps) = (config.width, config.mlp, config.eps);
        let std = (width as f32).powf(-0.5);
        let shallow = std * (2.0 * config.layers as f32).powf(-0.5);
        let mut linear = |din: usize, dout: usize, std: f32| {
            let weight = Init::Normal(std).tensor([dout, din], rng);
            Linear::from_params(Param::from_tensor(weight), Some(zeros([dout])))
        };
        let norm = |width: usize| config.sub_norms.then(|| LayerNorm::new(width, eps));
        let scale = || config.layer_scale.then(|| ones([width]));
        let fc = if config.swiglu { 2 * mlp } else { mlp };
        Self {
            ln_1: LayerNorm::new(width, eps),
            qkv: linear(width, 3 * width, std).with_parts(&qkv_parts(width, width)),
            ln_out: norm(width),
            out: linear(width, width, shallow),
            scale_1: scale(),
            ln_2: LayerNorm::new(width, eps),
            fc: config.first(linear(width, fc, (2.0 * width as f32).powf(-0.5))),
            ln_proj: norm(mlp),
            proj: linear(mlp, width, shallow),
            scale_2: scale(),
        }
    }

    fn load(c: &StackConfig, loader: Loader, prefix: &str, names: &Names) -> Result<Self, WeightsError> {
        let name = |part: &str| format!("{prefix}.{part}");
        let norm = |part: &str, width: usize| loader.layer_norm(&name(part), width, c.eps);
        let sub_norm = |part: &str, width: usize| c.sub_norms.then(|| norm(part, width)).transpose();
        let scale = |part: &str| c.layer_scale.then(|| loader.param(&name(part), [c.width])).transpose();
        let qkv = match &names.qkv {
            Qkv::Packed { weight, bias } => Linear::from_params(
                loader.param(&name(weight), [3 * c.width, c.width])?,
                Some(loader.param(&name(bias), [3 * c.width])?),
            ),
            Qkv::Apart(parts) => {
                let parts = parts.map(name);
                loader.stacked(&parts.each_ref().map(|part| (&**part, c.width)), c.width, true)?
            }
            Qkv::WithoutKeyBias(parts) => without_key_bias(loader, parts.map(name), c.width)?,
        };
        let fc = match (c.swiglu, &names.swiglu) {
            (false, _) => loader.linear(&name(names.fc), c.width, c.mlp, true)?,
            (true, [packed]) => loader.linear(&name(packed), c.width, 2 * c.mlp, true)?,
            (true, parts) => {
                let parts: Vec<String> = parts.iter().map(|part| name(part)).collect();
                let parts: Vec<(&str, usize)> = parts.iter().map(|part| (&**part, c.mlp)).collect();
                loader.stacked(&parts, c.width, true)?
            }
        };
        let proj = if c.swiglu { names.swiglu_proj } else { names.proj };
        Ok(Self {
            ln_1: norm(names.ln_1, c.width)?,
            qkv: qkv.with_parts(&qkv_parts(c.width, c.width)),
            ln_out: sub_norm(names.ln_out, c.width)?,
            out: loader.linear(&name(names.out), c.width, c.width, true)?,
            scale_1: scale(names.scale_1)?,
            ln_2: norm(names.ln_2, c.width)?,
            fc: c.first(fc),
            ln_proj: sub_norm(names.ln_proj, c.mlp)?,
            proj: loader.linear(&name(proj), c.mlp, c.width, true)?,
            scale_2: scale(names.scale_2)?,
        })
    }

    /// `[t, c]` → `[t, c]`.
    pub(crate) fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let pass = pass.clone();
        checkpoint::block(self, x, move |block, x| {
            let mixed = block.mix(&x, &pass);
            block.finish(x, mixed, pass.gelu)
        })
    }

    /// As [`Self::forward`] for the tokens that come next in each sequence, which see those before through what is kept of them. Nothing is recorded
    /// for gradients.
    pub(crate) fn extend(&self, x: Tensor<2>, pass: &Pass, kept: &mut [KeyValues]) -> Tensor<2> {
        let _span = trace::span("Block");
        let qkv = self.qkv.forward(self.ln_1.forward(x.clone()));
        let mixed = fused::attention_cached(qkv, &pass.offsets, kept, &pass.attention);
        self.finish(x, mixed, pass.gelu)
    }

    /// As [`Self::forward`], of which only one row of each sequence is wanted: the last block of a tower that reads nothing but its class tokens
    /// leaves out three quarters of its products.
    ///
    /// # Shapes
    /// `[t, c]`, `r` rows below `t` → `[r, c]`.
    pub(crate) fn forward_rows(&self, x: Tensor<2>, pass: &Pass, rows: &Arc<[u32]>) -> Tensor<2> {
        let (pass, rows) = (pass.clone(), Arc::clone(rows));
        checkpoint::block(self, x, move |block, x| {
            let mixed = block.mix(&x, &pass);
            let (x, mixed) = (fused::embedding(x, &rows), fused::embedding(mixed, &rows));
            noise::rows(Rows::Items, || block.finish(x, mixed, pass.gelu))
        })
    }

    /// Attention over the normed rows, before its output layer.
    fn mix(&self, x: &Tensor<2>, pass: &Pass) -> Tensor<2> {
        let mut qkv = self.qkv.after(Before::LayerNorm(&self.ln_1), x.clone(), None);
        if let Some(Rotation { cos, sin }) = &pass.rotation {
            let heads = pass.attention.heads;
            qkv = plain::rotate(qkv, cos.clone(), sin.clone(), 2 * heads, 3 * heads);
        }
        fused::attention(qkv, &pass.offsets, &pass.attention)
    }

    /// What follows attention, row by row.
    fn finish(&self, x: Tensor<2>, mixed: Tensor<2>, gelu: Gelu) -> Tensor<2> {
        let x = add(&self.out, self.scale_1.as_ref(), normed(mixed, self.ln_out.as_ref()), x);
        let (fc, proj, ln_2) = (&self.fc, &self.proj, &self.ln_2);
        // twice as wide as what the last layer reads: a gate and what it gates
        let gated = fc.weight.dims()[0] == 2 * proj.weight.dims()[1];
        if !gated && self.ln_proj.is_none() && self.scale_2.is_none() {
            return feed_forward(Some(ln_2), fc, gelu.into(), proj, x.clone(), Some(x));
        }
        let h = if gated {
            fused::gated(fc.after(Before::LayerNorm(ln_2), x.clone(), None), Activation::Silu)
        } else {
            fc.fused(ln_2.forward(x.clone()), gelu.into(), None)
        };
        add(proj, self.scale_2.as_ref(), normed(h, self.ln_proj.as_ref()), x)
    }
}

fn normed(x: Tensor<2>, norm: Option<&LayerNorm>) -> Tensor<2> {
    norm.map_or(x.clone(), |norm| norm.forward(x))
}

/// x + scale · layer(h).
fn add(layer: &Linear, scale: Option<&Param<Tensor<1>>>, h: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    match scale {
        Some(scale) => layer.scaled(h, scale.val(), x),
        None => layer.fused(h, Activation::Identity, Some(x)),
    }
}

/// Queries, keys and values of a file in which keys have no bias: it is zero here.
fn without_key_bias(loader: Loader, parts: [String; 3], width: usize) -> Result<Linear, WeightsError> {
    let stacked = loader.stacked(&parts.each_ref().map(|part| (&**part, width)), width, false)?;
    let [query, _, value] = parts.map(|part| format!("{part}.bias"));
    let mut bias = loader.values(&query, &[width])?;
    bias.resize(2 * width, 0.0);
    bias.extend(loader.values(&value, &[width])?);
    let bias = Param::from_tensor(tensor(bias, [3 * width]));
    Ok(Linear::from_params(stacked.weight, Some(bias)))
}
