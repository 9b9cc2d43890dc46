//! What comes after the towers of a bundle: statistics of features, and heads.

use std::collections::BTreeMap;

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;

use super::model::lay_over;
use super::{BundleError, Manifest};
use crate::adapter::{Head, HeadConfig, normalize};
use crate::weights::{HostTensor, TensorSource, WeightsError, strict};

/// Rows that pass through a head at once.
const ROWS: usize = 1024;

/// Mean and standard deviation of each feature over the data that a head was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardize {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Standardize {
    /// Statistics over rows, in f64; a feature that never changes keeps its scale.
    ///
    /// # Shapes
    /// `rows` `[n, dim]`.
    pub fn fit(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim.max(1)).max(1) as f64;
        let mut mean = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v) / n);
        }
        let mut variance = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            for ((s, &v), m) in variance.iter_mut().zip(row).zip(&mean) {
                *s += (f64::from(v) - m).powi(2) / n;
            }
        }
        let std = |v: f64| if v > 1e-12 { v.sqrt() as f32 } else { 1.0 };
        Self {
            mean: mean.into_iter().map(|m| m as f32).collect(),
            std: variance.into_iter().map(std).collect(),
        }
    }

    /// Shifts and scales rows in place.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len().max(1)) {
            for ((v, m), s) in row.iter_mut().zip(&self.mean).zip(&self.std) {
                *v = (*v - m) / s;
            }
        }
    }

    pub(super) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let vector = |data: &Vec<f32>| HostTensor {
            shape: vec![data.len()],
            data: data.clone(),
        };
        BTreeMap::from([
            ("mean".to_owned(), vector(&self.mean)),
            ("std".to_owned(), vector(&self.std)),
        ])
    }

    fn load(source: &dyn TensorSource, name: &str, dim: usize) -> Result<Self, WeightsError> {
        Ok(Self {
            mean: source.load_shaped(&format!("{name}.mean"), &[dim])?.data,
            std: source.load_shaped(&format!("{name}.std"), &[dim])?.data,
        })
    }
}

/// A head with what comes before it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) standardize: Option<Standardize>,
    pub(super) head: Head,
}

impl Side {
    /// Tower features to embeddings.
    pub(super) fn map(&self, mut features: Vec<f32>, dim: usize, unit: bool) -> Vec<f32> {
        if let Some(standardize) = &self.standardize {
            standardize.apply(&mut features);
        }
        if let (Head::Identity(_), false) = (&self.head, unit) {
            return features;
        }
        let mut out = Vec::with_capacity(features.len() / dim.max(1) * self.head.dim());
        for rows in features.chunks(ROWS * dim.max(1)) {
            let x = tensor(rows.to_vec(), [rows.len() / dim.max(1), dim]);
            let y = self.head.forward(x, false);
            out.extend(values(if unit { normalize(y) } else { y }));
        }
        out
    }
    /// No head.
    pub(super) fn bare(width: usize) -> Self {
        match HeadConfig::default().build(width, &mut Rng::new(0)) {
            Ok(head) => Self {
                standardize: None,
                head,
            },
            Err(error) => unreachable!("an identity head fits any tower: {error}"),
        }
    }

    pub(super) fn has_head(&self) -> bool {
        !matches!(self.head, Head::Identity(_))
    }

    fn load(
        source: &dyn TensorSource,
        manifest: &Manifest,
        name: &str,
        config: &HeadConfig,
        input: usize,
        standardized: bool,
    ) -> Result<Self, BundleError> {
        let head = config.build(input, &mut Rng::new(0))?;
        let head = lay_over(head, source, &format!("{name}_head"))?;
        if head.dim() != manifest.embed_dim {
            return Err(BundleError::Widths(format!(
                "the {name} head gives {} values, the embedding has {}",
                head.dim(),
                manifest.embed_dim
            )));
        }
        let standardize = standardized.then(|| Standardize::load(source, name, input));
        Ok(Self {
            standardize: standardize.transpose()?,
            head,
        })
    }
}

/// The heads for pictures and texts out of a bundle's file, every tensor of which must be theirs; `widths` are those of the towers.
pub(super) fn load(
    source: &dyn TensorSource,
    manifest: &Manifest,
    widths: [usize; 2],
) -> Result<(Side, Side), BundleError> {
    let [image, text] = widths;
    let m = manifest;
    strict(source, &[], |source| {
        Ok((
            Side::load(source, m, "image", &m.image_head, image, m.standardize_image)?,
            Side::load(source, m, "text", &m.text_head, text, m.standardize_text)?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::save::{write_manifest, write_tensors};
    use super::super::{Model, REFERENCE};
    use super::*;
    use crate::adapter::HeadKind;
    use crate::convert::{Layout, convert};
    use crate::weights::Misfit;

    const FILE: &str = "heads.safetensors";

    fn zeros(shapes: &[(&str, &[usize])]) -> BTreeMap<String, HostTensor> {
        let zeros = |&(name, shape): &(&str, &[usize])| {
            let tensor = HostTensor {
                shape: shape.to_vec(),
                data: vec![0.0; shape.iter().product()],
            };
            (name.to_owned(), tensor)
        };
        shapes.iter().map(zeros).collect()
    }

    /// A bundle whose file of heads is as its description says, but for its tensors.
    fn open(dir: &Path, tensors: &[(&str, &[usize])]) -> Result<Model, BundleError> {
        let mut manifest = Manifest::read(dir).unwrap();
        manifest.image_head.kind = HeadKind::Linear;
        manifest.image_head.width = Some(24);
        manifest.standardize_text = true;
        let entry = write_tensors(dir, FILE, &zeros(tensors)).unwrap();
        manifest.files.insert(FILE.to_owned(), entry);
        manifest.files.remove(REFERENCE);
        manifest.fingerprint = manifest.identity();
        write_manifest(dir, &manifest).unwrap();
        Model::load(dir)
    }

    #[test]
    fn every_tensor_of_the_heads_is_accounted_for() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("bundle");
        let pretrained = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/siglip");
        convert(&pretrained, &dir, Layout::Bundle).unwrap();
        let misfit = |tensors: &[(&str, &[usize])]| match open(&dir, tensors) {
            Err(BundleError::Weights(WeightsError::Mismatch { path, misfit })) => {
                assert!(path.ends_with(FILE), "{}", path.display());
                let Misfit {
                    missing,
                    misshapen,
                    unexpected,
                    ..
                } = *misfit;
                (missing, misshapen, unexpected)
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("opened with {tensors:?}"),
        };
        let weight: (&str, &[usize]) = ("image_head.linear.weight", &[24, 24]);
        let bias: (&str, &[usize]) = ("image_head.linear.bias", &[24]);
        let mean: (&str, &[usize]) = ("text.mean", &[24]);
        let std: (&str, &[usize]) = ("text.std", &[24]);
        open(&dir, &[weight, bias, mean, std]).unwrap();
        // all at once, of both sides
        let (missing, misshapen, unexpected) = misfit(&[
            ("image_head.linear.weight", &[24, 23]),
            mean,
            ("text_head.linear.weight", &[24, 24]),
            ("image.mean", &[24]),
        ]);
        assert_eq!(missing, ["image_head.linear.bias", "text.std"]);
        assert_eq!(misshapen, ["\"image_head.linear.weight\" has [24, 23] for [24, 24]"]);
        assert_eq!(unexpected, ["image.mean", "text_head.linear.weight"]);
        // one too many is enough
        let (missing, misshapen, unexpected) = misfit(&[weight, bias, mean, std, ("image.std", &[24])]);
        assert!(missing.is_empty() && misshapen.is_empty());
        assert_eq!(unexpected, ["image.std"]);
    }
}
