//! Between a vision tower and a language model: what is read of a picture, and the layers that turn it into rows which stand in place of tokens (LLaVA, Liu et
//! al. 2023, arXiv 2304.08485 and 2310.03744).
//!
//! A connector is a [`Head`] over each patch: `linear` (LLaVA 1.0), `mlpNx_gelu` (1.5: two linear layers with GELU between), or `identity`. A [`Tap`] says where
//! the patches come from, [`splice`] puts the rows into a text.
//!
//! Other ways: [`qformer`], learnt queries that look at a picture and at a text (BLIP-2); [`resampler`], learnt vectors that any number of patches become, and
//! [`gated`], the layers through which a language model looks at them (Flamingo).

pub mod flamingo;
pub mod gated;
mod perceiver;
pub mod qformer;
pub mod resampler;
mod splice;
mod tap;

pub use splice::splice;
pub use tap::{Select, Tap};

use bifocal_nn::init::Rng;
use bifocal_nn::params;

use crate::adapter::{Head, HeadActivation, HeadConfig, HeadError, HeadKind};
use crate::weights::{TensorSource, WeightsError};

/// The colour of the margins that LLaVA 1.5's code puts around pictures: the mean of CLIP's training pictures.
pub const MARGIN: [u8; 3] = [122, 116, 104];

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// A kind that is not known.
    #[error(
        "\"{0}\" is no connector that is known; there are linear, identity and mlpNx_gelu (N: number of linear layers), for example mlp2x_gelu"
    )]
    Kind(String),
    /// Numbers that cannot be.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Weights that are missing or have another shape.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tower has no patches.
    #[error("{name} gives one vector a picture and no patches to read; take a vision transformer or an EfficientNet")]
    NoPatches {
        /// The tower.
        name: String,
    },
}

/// The connector of a name of LLaVA's, into a language model of this width.
///
/// # Errors
/// [`ConnectorError::Kind`] for a name that is not known.
pub fn config(kind: &str, width: usize) -> Result<HeadConfig, ConnectorError> {
    let unknown = || ConnectorError::Kind(kind.to_owned());
    let head = |kind: HeadKind, layers| HeadConfig {
        kind,
        width: Some(width),
        layers,
        // of an MLP: hidden layers as wide as the last one
        ratio: if kind == HeadKind::Mlp {
            0
        } else {
            HeadConfig::default().ratio
        },
        activation: HeadActivation::Gelu,
        ..HeadConfig::default()
    };
    Ok(match kind {
        "linear" => head(HeadKind::Linear, 1),
        "identity" => head(HeadKind::Identity, 1),
        other => {
            let layers = other.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
            let layers = layers.and_then(|n| n.parse::<usize>().ok());
            let layers = layers.filter(|n| (1..=16).contains(n)).ok_or_else(unknown)?;
            head(HeadKind::Mlp, layers)
        }
    })
}

/// Loads a connector by the names of LLaVA's own checkpoints (`mm_projector.0.weight`, …) or of transformers' (`multi_modal_projector.linear_1.weight`, …),
/// from `input` values a patch to rows of `width`.
///
/// # Errors
/// [`ConnectorError::Weights`] when there is none, or its shapes are others.
pub fn load(source: &dyn TensorSource, input: usize, width: usize) -> Result<(Head, HeadConfig), ConnectorError> {
    for prefix in ["", "model."] {
        let there = |name: &String| source.shape(&format!("{name}.weight")).is_some();
        let single = format!("{prefix}mm_projector");
        // the layers of a sequence in which activations have numbers too
        let own: Vec<String> = (0..16)
            .map(|i| format!("{prefix}mm_projector.{}", 2 * i))
            .take_while(there)
            .collect();
        let theirs: Vec<String> = (1..=16)
            .map(|i| format!("{prefix}multi_modal_projector.linear_{i}"))
            .take_while(there)
            .collect();
        let layers = if own.is_empty() { theirs } else { own };
        if there(&single) {
            return filled(config("linear", width)?, source, &[single], input);
        }
        if !layers.is_empty() {
            return filled(
                config(&format!("mlp{}x_gelu", layers.len()), width)?,
                source,
                &layers,
                input,
            );
        }
    }
    let names = source.names();
    let names = names.iter().map(String::as_str);
    Err(WeightsError::missing(source.path(), "mm_projector.0.weight", names).into())
}

fn filled(
    config: HeadConfig,
    source: &dyn TensorSource,
    layers: &[String],
    input: usize,
) -> Result<(Head, HeadConfig), ConnectorError> {
    let head = config.build(input, &mut Rng::new(0))?;
    let loaded = params::load(head, |name, shape| {
        let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
        let at = match layer.strip_prefix("layers.").and_then(|rest| rest.split('.').next()) {
            Some(number) => number.parse().unwrap_or(0),
            // of an MLP, the last one
            None => layers.len() - 1,
        };
        let found = source.load_shaped(&format!("{}.{part}", layers[at]), shape)?;
        Ok::<_, WeightsError>(Some(found.data))
    });
    match loaded {
        Ok(head) => Ok((head, config)),
        Err(params::LoadError::Source(error)) => Err(error.into()),
        Err(params::LoadError::Length { .. }) => unreachable!("shapes were checked as tensors were loaded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::HostTensor;
    use bifocal_nn::engine::{tensor, values};
    use std::collections::BTreeMap;

    fn source(layers: &[(&str, usize, usize)]) -> BTreeMap<String, HostTensor> {
        let mut all = BTreeMap::new();
        for (i, &(name, dout, din)) in layers.iter().enumerate() {
            let numbers = |n: usize| (0..n).map(|j| ((i + 3 * j) as f32 * 0.7).sin()).collect();
            let weight = HostTensor {
                shape: vec![dout, din],
                data: numbers(dout * din),
            };
            let bias = HostTensor {
                shape: vec![dout],
                data: numbers(dout),
            };
            all.insert(format!("{name}.weight"), weight);
            all.insert(format!("{name}.bias"), bias);
        }
        all
    }

    #[test]
    fn names_of_llava_say_what_is_built() {
        assert_eq!(config("linear", 8).unwrap().kind, HeadKind::Linear);
        assert_eq!(config("mlp3x_gelu", 8).unwrap().layers, 3);
        for bad in ["mlp", "mlpx_gelu", "mlp0x_gelu", "mlp99x_gelu", "conv", ""] {
            assert!(matches!(config(bad, 8), Err(ConnectorError::Kind(_))), "{bad}");
        }
    }

    #[test]
    fn both_spellings_load_the_same_layers() {
        let own = source(&[("model.mm_projector.0", 6, 4), ("model.mm_projector.2", 6, 6)]);
        let theirs = source(&[
            ("multi_modal_projector.linear_1", 6, 4),
            ("multi_modal_projector.linear_2", 6, 6),
        ]);
        let x = || tensor((0..8).map(|i| i as f32 - 3.0).collect(), [2, 4]);
        let of = |source: &BTreeMap<String, HostTensor>| {
            let (head, config) = load(source, 4, 6).unwrap();
            assert_eq!((config.kind, config.layers), (HeadKind::Mlp, 2));
            values(head.forward(x(), false))
        };
        assert_eq!(of(&own), of(&theirs));
        let (head, config) = load(&source(&[("mm_projector", 6, 4)]), 4, 6).unwrap();
        assert_eq!((config.kind, head.dim()), (HeadKind::Linear, 6));
    }

    #[test]
    fn another_shape_is_refused_and_so_is_nothing() {
        let wrong = source(&[("mm_projector.0", 6, 4), ("mm_projector.2", 6, 5)]);
        assert!(load(&wrong, 4, 6).is_err());
        assert!(load(&BTreeMap::new(), 4, 6).is_err());
    }
}
