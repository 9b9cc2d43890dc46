//! Pooling by attention (Lee et al. 2019; "MAP head" of Zhai et al. 2022).

use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{LayerNorm, Linear, feed_forward};
use bifocal_nn::noise::{self, Rows};
use bifocal_nn::{Module, Param, Tensor, plain};

use crate::blocks::{Pass, StackConfig, qkv_parts};
use crate::load::Loader;
use crate::weights::WeightsError;

/// One learned query over the tokens of an image, then a feed-forward part with a residual connection.
#[derive(Module, Debug)]
pub struct AttentionPool {
    /// `[1, c]`: the query before its layer.
    probe: Param<Tensor<2>>,
    /// `[3c, c]`: query, keys, values.
    qkv: Linear,
    /// `[c, c]`.
    out: Linear,
    norm: LayerNorm,
    /// `[mlp, c]`.
    fc: Linear,
    /// `[c, mlp]`.
    proj: Linear,
}

/// How a checkpoint calls the parts.
pub(super) struct PoolNames {
    pub probe: &'static str,
    /// The shape of the probe in the file.
    pub probe_shape: fn(usize) -> Vec<usize>,
    pub qkv: PoolQkv,
    pub out: &'static str,
    pub norm: &'static str,
    pub fc: &'static str,
    pub proj: &'static str,
}

/// Where query, keys and values are.
pub(super) enum PoolQkv {
    /// Weight and bias of all three.
    Packed([&'static str; 2]),
    /// A layer for the query and one for keys and values.
    Apart([&'static str; 2]),
}

impl AttentionPool {
    pub(super) fn new(c: &StackConfig, rng: &mut Rng) -> Self {
        let probe = Init::Normal((c.width as f32).powf(-0.5)).tensor([1, c.width], rng);
        Self {
            probe: Param::from_tensor(probe),
            qkv: Linear::new(c.width, 3 * c.width, true, rng).with_parts(&qkv_parts(c.width, c.width)),
            out: Linear::new(c.width, c.width, true, rng),
            norm: LayerNorm::new(c.width, c.eps),
            fc: Linear::new(c.width, c.mlp, true, rng),
            proj: Linear::new(c.mlp, c.width, true, rng),
        }
    }

    pub(super) fn load(c: &StackConfig, loader: Loader, prefix: &str, n: &PoolNames) -> Result<Self, WeightsError> {
        let name = |part: &str| format!("{prefix}{part}");
        let width = c.width;
        let qkv = match &n.qkv {
            PoolQkv::Packed([weight, bias]) => Linear::from_params(
                loader.param(&name(weight), [3 * width, width])?,
                Some(loader.param(&name(bias), [3 * width])?),
            ),
            PoolQkv::Apart([query, rest]) => {
                let (query, rest) = (name(query), name(rest));
                loader.stacked(&[(&query, width), (&rest, 2 * width)], width, true)?
            }
        };
        Ok(Self {
            probe: loader.reshaped(&name(n.probe), &(n.probe_shape)(width), [1, width])?,
            qkv: qkv.with_parts(&qkv_parts(width, width)),
            out: loader.linear(&name(n.out), width, width, true)?,
            norm: loader.layer_norm(&name(n.norm), width, c.eps)?,
            fc: loader.linear(&name(n.fc), width, c.mlp, true)?,
            proj: loader.linear(&name(n.proj), c.mlp, width, true)?,
        })
    }

    /// `[t, c]` → `[n, c]`.
    pub(super) fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let [_, c] = x.dims();
        let n = pass.offsets.len().saturating_sub(1);
        let query = noise::rows(Rows::Shared, || self.qkv.rows(self.probe.val(), 0..c));
        let key_value = self.qkv.rows(x, c..3 * c);
        let pooled = plain::attend(query.expand([n, c]), key_value, &pass.offsets, pass.attention.heads);
        noise::rows(Rows::Items, || {
            let x = self.out.forward(pooled);
            feed_forward(
                Some(&self.norm),
                &self.fc,
                pass.gelu.into(),
                &self.proj,
                x.clone(),
                Some(x),
            )
        })
    }
}
