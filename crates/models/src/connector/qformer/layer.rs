//! One layer: self-attention that queries and tokens share, the queries' look at the picture, and a feed-forward part for each kind. Norms come after.

use bifocal_nn::fused::Activation;
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{LayerNorm, Linear, feed_forward, zeros};
use bifocal_nn::{Module, Param, Tensor, plain};

use super::see::Items;
use super::{EPS, QFormerConfig, SPREAD};
use crate::blocks::qkv_parts;

/// x ← norm(x + attention(x)); queries ← norm(queries + attention(queries; picture)); each kind ← norm(x + mlp(x)).
#[derive(Module, Debug)]
pub struct Layer {
    pub(super) own: Attend,
    pub(super) cross: Option<Attend>,
    pub(super) query_mlp: Mlp,
    pub(super) text_mlp: Option<Mlp>,
    #[module(skip)]
    pub(super) heads: usize,
}

/// Attention to rows of one's own or to others, added and normed.
#[derive(Module, Debug)]
pub struct Attend {
    /// `[c, c]`.
    pub(super) query: Linear,
    /// `[2c, width of the others]`: keys, values.
    pub(super) key_value: Linear,
    /// `[c, c]`.
    pub(super) out: Linear,
    pub(super) norm: LayerNorm,
}

/// Two layers with exact GELU between, added and normed.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[mlp, c]`.
    pub(super) fc: Linear,
    /// `[c, mlp]`.
    pub(super) proj: Linear,
    pub(super) norm: LayerNorm,
}

/// As BERT begins.
pub(super) fn linear(from: usize, to: usize, rng: &mut Rng) -> Linear {
    let weight = Init::Normal(SPREAD).tensor([to, from], rng);
    Linear::from_params(Param::from_tensor(weight), Some(zeros([to])))
}

impl Layer {
    pub(super) fn new(c: &QFormerConfig, layer: usize, rng: &mut Rng) -> Self {
        let crosses = layer.is_multiple_of(c.cross_every);
        let text_mlp = c.text.is_some().then(|| Mlp::new(c, rng));
        Self {
            own: Attend::new(c.width, c.width, rng),
            cross: crosses.then(|| Attend::new(c.width, c.image_width, rng)),
            query_mlp: text_mlp.as_ref().map_or_else(|| Mlp::new(c, rng), Mlp::copied),
            text_mlp,
            heads: c.heads,
        }
    }

    /// `[n·rows, c]` → `[n·rows, c]`; `seen` says which of an item's rows a row sees.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        image: Option<&Tensor<2>>,
        items: Items,
        seen: Option<&[bool]>,
    ) -> Tensor<2> {
        let x = self.own.forward(x.clone(), x, items.n, self.heads, seen);
        let (mut queries, tokens) = match (items.queries, items.tokens) {
            (_, 0) => (Some(x), None),
            (0, _) => (None, Some(x)),
            _ => {
                let (queries, tokens) = items.split(x);
                (Some(queries), Some(tokens))
            }
        };
        if let (Some(cross), Some(image), Some(rows)) = (&self.cross, image, &mut queries) {
            *rows = cross.forward(rows.clone(), image.clone(), items.n, self.heads, None);
        }
        let queries = queries.map(|x| self.query_mlp.forward(x));
        // there are texts only where there is a part that reads them
        let tokens = tokens.map(|x| self.text_mlp.as_ref().unwrap_or(&self.query_mlp).forward(x));
        match (queries, tokens) {
            (Some(queries), Some(tokens)) => items.join(queries, tokens),
            (Some(x), None) | (None, Some(x)) => x,
            (None, None) => unreachable!("one kind of rows is there"),
        }
    }
}

impl Attend {
    fn new(width: usize, others: usize, rng: &mut Rng) -> Self {
        Self {
            query: linear(width, width, rng),
            key_value: linear(others, 2 * width, rng).with_parts(&qkv_parts(0, width)[1..]),
            out: linear(width, width, rng),
            norm: LayerNorm::new(width, EPS),
        }
    }

    fn forward(&self, x: Tensor<2>, others: Tensor<2>, items: usize, heads: usize, seen: Option<&[bool]>) -> Tensor<2> {
        let both = self.key_value.forward(others);
        let [rows, width] = both.dims();
        let half = |from: usize| both.clone().slice([0..rows, from..from + width / 2]);
        let query = self.query.forward(x.clone());
        let mixed = plain::attend_items(query, half(0), half(width / 2), items, heads, seen);
        self.norm.forward(self.out.fused(mixed, Activation::Identity, Some(x)))
    }
}

impl Mlp {
    fn new(c: &QFormerConfig, rng: &mut Rng) -> Self {
        Self {
            fc: linear(c.width, c.mlp, rng),
            proj: linear(c.mlp, c.width, rng),
            norm: LayerNorm::new(c.width, EPS),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gelu = Activation::GeluErf;
        self.norm
            .forward(feed_forward(None, &self.fc, gelu, &self.proj, x.clone(), Some(x)))
    }
}
