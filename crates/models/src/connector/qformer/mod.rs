//! BLIP-2's Q-Former (Li et al. 2023, arXiv 2301.12597): learnt queries look at a frozen tower's tokens, and share their self-attention with a text.

mod layer;
mod load;
mod see;
mod trunk;

use std::sync::Arc;

use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Embedding, LayerNorm, Linear, zeros};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use crate::text::TokenBatch;
use layer::Layer;
pub use see::Task;
use see::{Items, seen};

/// Standard deviation of initial values, as BERT's.
const SPREAD: f32 = 0.02;

/// Sizes of a Q-Former.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QFormerConfig {
    /// Width of queries and of texts.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads; they divide the width.
    pub heads: usize,
    /// Width between the two layers of a feed-forward part.
    pub mlp: usize,
    /// Number of learnt queries: what a picture becomes.
    pub queries: usize,
    /// Every so many layers, from the first one on, queries look at the picture.
    pub cross_every: usize,
    /// Width of the picture's tokens.
    pub image_width: usize,
    /// What it takes to read texts; without it, it is queries alone (BLIP-2's second stage).
    #[serde(default)]
    pub text: Option<QFormerText>,
}

/// What it takes to read texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QFormerText {
    /// Number of token ids.
    pub vocabulary: usize,
    /// The longest text, in tokens.
    pub positions: usize,
    /// Width of the space in which pictures and texts are compared.
    pub dim: usize,
}

/// The constant of BERT's norms.
pub(super) const EPS: f32 = 1e-12;

/// Learnt queries, layers, and what reads texts.
#[derive(Module, Debug)]
pub struct QFormer {
    /// `[queries, c]`.
    queries: Param<Tensor<2>>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    text: Option<Reader>,
    #[module(skip)]
    config: Arc<QFormerConfig>,
}

/// What reads texts, and compares them with pictures.
#[derive(Module, Debug)]
pub struct Reader {
    words: Embedding,
    positions: Embedding,
    /// `[dim, c]`: from queries into the joint space.
    image: Linear,
    /// `[dim, c]`: from a text's first token.
    text: Linear,
    /// `[2, c]`: whether picture and text belong together; row 1 says that they do.
    matching: Linear,
    /// Which word comes next; a checkpoint may have come without it.
    language: Option<Language>,
}

/// BERT's head of words: a layer, a norm, the table of words again.
#[derive(Module, Debug)]
pub struct Language {
    transform: Linear,
    norm: LayerNorm,
    /// `[vocabulary]`.
    bias: Param<Tensor<1>>,
}

impl QFormer {
    /// Initial values: normal with standard deviation 0.02, as BERT's. The feed-forward parts of queries begin as those of texts.
    pub fn new(config: QFormerConfig, rng: &mut Rng) -> Self {
        let c = config.width;
        let linear = |to: usize, rng: &mut Rng| layer::linear(c, to, rng);
        let reader = |t: &QFormerText, rng: &mut Rng| Reader {
            words: Embedding::new(t.vocabulary, c, SPREAD, rng),
            positions: Embedding::new(t.positions, c, SPREAD, rng),
            image: linear(t.dim, rng),
            text: linear(t.dim, rng),
            matching: linear(2, rng),
            language: Some(Language {
                transform: linear(c, rng),
                norm: LayerNorm::new(c, EPS),
                bias: zeros([t.vocabulary]),
            }),
        };
        Self {
            queries: Param::from_tensor(Init::Normal(SPREAD).tensor([config.queries, c], rng)),
            norm: LayerNorm::new(c, EPS),
            layers: (0..config.layers).map(|i| Layer::new(&config, i, rng)).collect(),
            text: config.text.as_ref().map(|t| reader(t, rng)),
            config: Arc::new(config),
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &QFormerConfig {
        &self.config
    }

    /// What queries make of pictures, for a language model to read, or to be compared.
    ///
    /// # Shapes
    /// `image` `[n·m, image width]`: the tokens of a tower, equally many of each picture → `[n·queries, c]`.
    pub fn queries(&self, image: Tensor<2>, items: usize) -> Tensor<2> {
        let x = self.norm.forward(
            self.learnt(items)
                .reshape([items * self.config.queries, self.config.width]),
        );
        let items = Items {
            n: items,
            queries: self.config.queries,
            tokens: 0,
        };
        self.run(x, Some(image), items, None)
    }

    /// Pictures in the joint space: every query's vector, of unit length (equation of ITC; the best of them counts).
    ///
    /// # Shapes
    /// As [`QFormer::queries`] → `[n·queries, dim]`; `None` when it does not read texts.
    pub fn embed_images(&self, image: Tensor<2>, items: usize) -> Option<Tensor<2>> {
        self.project(self.queries(image, items))
    }

    /// What queries made of pictures in the joint space, of unit length.
    ///
    /// # Shapes
    /// `[n·queries, c]` → `[n·queries, dim]`; `None` when it does not read texts.
    pub fn project(&self, queries: Tensor<2>) -> Option<Tensor<2>> {
        let head = &self.text.as_ref()?.image;
        Some(crate::adapter::normalize(head.forward(queries)))
    }

    /// Texts in the joint space: their first token, of unit length.
    ///
    /// # Shapes
    /// → `[n, dim]`; `None` when it does not read texts.
    pub fn embed_texts(&self, texts: &TokenBatch) -> Option<Tensor<2>> {
        let reader = self.text.as_ref()?;
        let (rows, items) = reader.rows(texts);
        let mask = seen(Task::Contrast, items, texts);
        let x = self.run(self.norm.forward(rows), None, items, Some(&mask));
        let first: Arc<[u32]> = (0..items.n).map(|i| (i * items.tokens) as u32).collect();
        Some(crate::adapter::normalize(
            reader.text.forward(fused::embedding(x, &first)),
        ))
    }

    /// Whether pictures and texts belong together (ITM): queries and text see each other, each query says, and the mean counts.
    ///
    /// # Shapes
    /// `image` as in [`QFormer::queries`], a text for each picture → `[n, 2]`: logits of no and of yes; `None` when it does not read texts.
    pub fn matches(&self, image: Tensor<2>, texts: &TokenBatch) -> Option<Tensor<2>> {
        let reader = self.text.as_ref()?;
        let (queries, _, items) = self.both(reader, Task::Match, image, texts);
        let each = reader.matching.forward(queries);
        let each = each.reshape([items.n, items.queries, 2]);
        Some(each.mean_dim(1).reshape([items.n, 2]))
    }

    /// What texts' tokens are when each sees the queries and the tokens before it (ITG).
    ///
    /// # Shapes
    /// As [`QFormer::matches`] → `[t, c]`, the texts' tokens one after the other; `None` when it does not read texts.
    pub fn describe(&self, image: Tensor<2>, texts: &TokenBatch) -> Option<Tensor<2>> {
        Some(self.read(image, texts)?.1)
    }

    /// As [`QFormer::describe`], with what queries make of the pictures, which is what [`QFormer::queries`] gives: they don't see the texts.
    ///
    /// # Shapes
    /// As [`QFormer::matches`] → `[n·queries, c]` and `[t, c]`; `None` when it does not read texts.
    pub fn read(&self, image: Tensor<2>, texts: &TokenBatch) -> Option<(Tensor<2>, Tensor<2>)> {
        let reader = self.text.as_ref()?;
        let (queries, tokens, items) = self.both(reader, Task::Describe, image, texts);
        // without what was added to make texts equally long
        let rows: Arc<[u32]> = texts
            .offsets
            .windows(2)
            .enumerate()
            .flat_map(|(i, bounds)| (0..bounds[1] - bounds[0]).map(move |at| (i * items.tokens + at) as u32))
            .collect();
        Some((queries, fused::embedding(tokens, &rows)))
    }

    /// Logits of the words that may come after tokens.
    ///
    /// # Shapes
    /// `[t, c]` of [`QFormer::describe`] → `[t, vocabulary]`; `None` without that head.
    pub fn words(&self, hidden: Tensor<2>) -> Option<Tensor<2>> {
        let reader = self.text.as_ref()?;
        let head = reader.language.as_ref()?;
        let x = head
            .norm
            .forward(head.transform.fused(hidden, Activation::GeluErf, None));
        let table = reader.words.weight.val();
        Some(fused::linear(
            x,
            table,
            Some(head.bias.val()),
            Activation::Identity,
            None,
        ))
    }

    /// `[n, queries, c]`.
    fn learnt(&self, n: usize) -> Tensor<3> {
        let (queries, c) = (self.config.queries, self.config.width);
        self.queries.val().unsqueeze::<3>().expand([n, queries, c])
    }

    /// Queries and texts together: rows of both apart.
    fn both(&self, reader: &Reader, task: Task, image: Tensor<2>, texts: &TokenBatch) -> (Tensor<2>, Tensor<2>, Items) {
        let c = self.config.width;
        let (rows, mut items) = reader.rows(texts);
        items.queries = self.config.queries;
        let Items { n, queries, tokens } = items;
        let x = Tensor::cat(vec![self.learnt(n), rows.reshape([n, tokens, c])], 1);
        let x = self.norm.forward(x.reshape([n * (queries + tokens), c]));
        let mask = seen(task, items, texts);
        let x = self.run(x, Some(image), items, Some(&mask));
        let (queries, tokens) = items.split(x);
        (queries, tokens, items)
    }

    fn run(&self, x: Tensor<2>, image: Option<Tensor<2>>, items: Items, mask: Option<&[bool]>) -> Tensor<2> {
        let layers = self.layers.iter();
        layers.fold(x, |x, layer| layer.forward(x, image.as_ref(), items, mask))
    }
}

impl Reader {
    /// Tokens with their positions, padded to the longest text: `[n·tokens, c]`. What is padding is seen by nobody.
    fn rows(&self, texts: &TokenBatch) -> (Tensor<2>, Items) {
        let lengths: Vec<usize> = texts.offsets.windows(2).map(|bounds| bounds[1] - bounds[0]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = Vec::with_capacity(lengths.len() * longest);
        for (length, bounds) in lengths.iter().zip(texts.offsets.windows(2)) {
            ids.extend_from_slice(&texts.ids[bounds[0]..bounds[1]]);
            ids.extend(std::iter::repeat_n(0, longest - length));
        }
        let items = Items {
            n: lengths.len(),
            queries: 0,
            tokens: longest,
        };
        let places: Arc<[u32]> = (0..items.n).flat_map(|_| 0..longest as u32).collect();
        let words = fused::embedding(self.words.weight.val(), &ids.into());
        (words + fused::embedding(self.positions.weight.val(), &places), items)
    }
}
