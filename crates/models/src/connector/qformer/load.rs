//! Q-Formers out of checkpoints: with the names of transformers' BLIP-2, or of the authors' own code (LAVIS).

use std::sync::Arc;

use super::layer::{Attend, Layer, Mlp};
use super::{EPS, Language, QFormer, QFormerConfig, Reader};
use crate::blocks::{check_heads, check_sizes};
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// How a checkpoint calls the parts.
struct Names {
    norm: &'static str,
    layers: &'static str,
    /// Of the three layers before attention, within an attention.
    inner: &'static str,
    words: &'static str,
    positions: &'static str,
    image: &'static str,
    text: &'static str,
    /// Of the head that says which word comes next.
    language: Option<&'static str>,
}

const TRANSFORMERS: Names = Names {
    norm: "qformer.layernorm",
    layers: "qformer.encoder.layer",
    inner: "attention",
    words: "embeddings.word_embeddings.weight",
    positions: "embeddings.position_embeddings.weight",
    image: "vision_projection",
    text: "text_projection",
    language: None,
};

const LAVIS: Names = Names {
    norm: "Qformer.bert.embeddings.LayerNorm",
    layers: "Qformer.bert.encoder.layer",
    inner: "self",
    words: "Qformer.bert.embeddings.word_embeddings.weight",
    positions: "Qformer.bert.embeddings.position_embeddings.weight",
    image: "vision_proj",
    text: "text_proj",
    language: Some("Qformer.cls.predictions"),
};

/// The queries, in both.
const QUERIES: &str = "query_tokens";
/// The layer that says whether picture and text belong together, in both.
const MATCHING: &str = "itm_head";

impl QFormer {
    /// Loads the Q-Former of a checkpoint of transformers (`Blip2ForImageTextRetrieval`, and without texts any other of its BLIP-2s) or of LAVIS. The
    /// vision tower and the language model of the file are not its business.
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: QFormerConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        check(&config, source)?;
        let has = |name: &str| source.shape(name).is_some();
        let names = match has(&format!("{}.weight", LAVIS.norm)) {
            true => &LAVIS,
            false => &TRANSFORMERS,
        };
        let (loader, c) = (Loader(source), config.width);
        let reader = config.text.as_ref().map(|text| -> Result<Reader, WeightsError> {
            let language = names.language.filter(|name| has(&format!("{name}.bias")));
            let language = language.map(|name| {
                Ok(Language {
                    transform: loader.linear(&format!("{name}.transform.dense"), c, c, true)?,
                    norm: loader.layer_norm(&format!("{name}.transform.LayerNorm"), c, EPS)?,
                    bias: loader.param(&format!("{name}.bias"), [text.vocabulary])?,
                })
            });
            Ok(Reader {
                words: loader.embedding(names.words, text.vocabulary, c)?,
                positions: loader.embedding(names.positions, text.positions, c)?,
                image: loader.linear(names.image, c, text.dim, true)?,
                text: loader.linear(names.text, c, text.dim, true)?,
                matching: loader.linear(MATCHING, c, 2, true)?,
                language: language.transpose()?,
            })
        });
        Ok(Self {
            queries: loader.reshaped(QUERIES, &[1, config.queries, c], [config.queries, c])?,
            norm: loader.layer_norm(names.norm, c, EPS)?,
            layers: (0..config.layers)
                .map(|i| layer(&config, loader, names, i))
                .collect::<Result<_, _>>()?,
            text: reader.transpose()?,
            config: Arc::new(config),
        })
    }
}

fn check(c: &QFormerConfig, source: &dyn TensorSource) -> Result<(), WeightsError> {
    let path = source.path();
    check_heads(path, c.width, c.heads)?;
    let mut sizes = vec![
        ("num_hidden_layers", c.layers),
        ("intermediate_size", c.mlp),
        ("num_query_tokens", c.queries),
        ("cross_attention_frequency", c.cross_every),
        ("encoder_hidden_size", c.image_width),
    ];
    if let Some(text) = &c.text {
        sizes.extend([
            ("vocab_size", text.vocabulary),
            ("max_position_embeddings", text.positions),
            ("image_text_hidden_size", text.dim),
        ]);
    }
    check_sizes(path, &sizes)
}

fn layer(c: &QFormerConfig, loader: Loader, names: &Names, i: usize) -> Result<Layer, WeightsError> {
    let name = |part: &str| format!("{}.{i}.{part}", names.layers);
    let attend = |part: &str, others: usize| -> Result<Attend, WeightsError> {
        let inner = |part: &str, which: &str| name(&format!("{part}.{}.{which}", names.inner));
        let [key, value] = ["key", "value"].map(|which| inner(part, which));
        Ok(Attend {
            query: loader.linear(&inner(part, "query"), c.width, c.width, true)?,
            key_value: loader.stacked(&[(&key, c.width), (&value, c.width)], others, true)?,
            out: loader.linear(&name(&format!("{part}.output.dense")), c.width, c.width, true)?,
            norm: loader.layer_norm(&name(&format!("{part}.output.LayerNorm")), c.width, EPS)?,
        })
    };
    let mlp = |kind: &str| -> Result<Mlp, WeightsError> {
        Ok(Mlp {
            fc: loader.linear(&name(&format!("intermediate{kind}.dense")), c.width, c.mlp, true)?,
            proj: loader.linear(&name(&format!("output{kind}.dense")), c.mlp, c.width, true)?,
            norm: loader.layer_norm(&name(&format!("output{kind}.LayerNorm")), c.width, EPS)?,
        })
    };
    let crosses = i.is_multiple_of(c.cross_every);
    Ok(Layer {
        own: attend("attention", c.width)?,
        cross: crosses.then(|| attend("crossattention", c.image_width)).transpose()?,
        query_mlp: mlp("_query")?,
        text_mlp: c.text.is_some().then(|| mlp("")).transpose()?,
        heads: c.heads,
    })
}
