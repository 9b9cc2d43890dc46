//! A Q-Former begins as a BERT: all it shares with one is taken over, and only what BERT has no like of begins anew.

use std::ops::Range;

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::layers::{Embedding, LayerNorm, Linear};
use bifocal_nn::{Param, Tensor};

use super::layer::{Attend, Mlp};
use super::{EPS, QFormer, QFormerConfig, QFormerText};
use crate::blocks::qkv_parts;
use crate::text::{Bert, BertConfig};

impl QFormerConfig {
    /// Sizes of a Q-Former that begins as a BERT, with a token more: the one with which descriptions begin (`[DEC]`).
    pub fn over(bert: &BertConfig, queries: usize, cross_every: usize, image_width: usize, dim: usize) -> Self {
        Self {
            width: bert.width,
            layers: bert.layers,
            heads: bert.heads,
            mlp: bert.mlp,
            queries,
            cross_every,
            image_width,
            text: Some(QFormerText {
                vocabulary: bert.vocabulary + 1,
                positions: bert.positions,
                dim,
            }),
        }
    }
}

impl QFormer {
    /// With the layers of a BERT that its sizes were taken from ([`QFormerConfig::over`]). Queries' feed-forward parts are copies of those of texts. What BERT
    /// adds to every token of its first segment is added to the positions. Queries, looks at pictures, the head of words, the projections and the row
    /// of the additional token stay as they were.
    #[must_use]
    pub fn over(mut self, bert: &Bert) -> Self {
        self.norm = norm(&bert.norm);
        for (layer, block) in self.layers.iter_mut().zip(&bert.blocks) {
            let c = block.out.weight.val().dims()[0];
            layer.own = Attend {
                query: rows(&block.qkv, 0..c),
                key_value: rows(&block.qkv, c..3 * c).with_parts(&qkv_parts(0, c)[1..]),
                out: whole(&block.out),
                norm: norm(&block.ln_1),
            };
            let mlp = || Mlp {
                fc: whole(&block.fc),
                proj: whole(&block.proj),
                norm: norm(&block.ln_2),
            };
            layer.query_mlp = mlp();
            layer.text_mlp = layer.text_mlp.take().map(|_| mlp());
        }
        if let Some(reader) = &mut self.text {
            let mut words = values(bert.words.weight.val());
            let mut own = values(reader.words.weight.val());
            words.extend(own.split_off(words.len()));
            reader.words = table(words, reader.words.weight.val().dims());
            let [places, c] = bert.positions.weight.val().dims();
            let first = values(bert.types.weight.val());
            let mut positions = values(bert.positions.weight.val());
            for row in positions.chunks_exact_mut(c.max(1)) {
                row.iter_mut().zip(&first).for_each(|(v, add)| *v += add);
            }
            reader.positions = table(positions, [places, c]);
        }
        self
    }
}

fn table(values: Vec<f32>, shape: [usize; 2]) -> Embedding {
    Embedding {
        weight: Param::from_tensor(tensor(values, shape)),
    }
}

fn copy<const D: usize>(x: Tensor<D>) -> Param<Tensor<D>> {
    let shape = x.dims();
    Param::from_tensor(tensor(values(x), shape))
}

/// Some rows of a layer, as a layer.
fn rows(linear: &Linear, rows: Range<usize>) -> Linear {
    let weight = linear.weight.val();
    let [_, c] = weight.dims();
    let bias = linear.bias.as_ref().map(|b| copy(b.val().slice([rows.clone()])));
    Linear::from_params(copy(weight.slice([rows, 0..c])), bias)
}

fn whole(linear: &Linear) -> Linear {
    rows(linear, 0..linear.weight.val().dims()[0])
}

/// BERT's constant is that of a Q-Former.
fn norm(from: &LayerNorm) -> LayerNorm {
    let mut norm = LayerNorm::new(from.weight.val().dims()[0], EPS);
    norm.weight = copy(from.weight.val());
    norm.bias = copy(from.bias.val());
    norm
}

impl Mlp {
    /// The same values in parameters of their own: a clone of a parameter is that parameter.
    pub(super) fn copied(&self) -> Self {
        Self {
            fc: whole(&self.fc),
            proj: whole(&self.proj),
            norm: norm(&self.norm),
        }
    }
}
