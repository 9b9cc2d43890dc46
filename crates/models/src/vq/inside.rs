//! An autoencoder among the tensors of what stands on it, so that a tower of codes is one file.
//!
//! One of pixels has its own names, without anything before them. Of one on a tiny autoencoder those of the network come below `vq.`, those of the
//! frozen files below `tiny.encoder.` and `tiny.decoder.`, and the scaling of latents is `latents.shift` and `latents.scale`.

use std::collections::BTreeMap;

use super::{Codec, Latents, Tiny, VqModel};
use crate::load::Loader;
use crate::weights::{HostTensor, TensorSource, WeightsError, below};

const VQ: &str = "vq.";
const TINY: [&str; 2] = ["tiny.encoder.", "tiny.decoder."];
const SHIFT: &str = "latents.shift";
const SCALE: &str = "latents.scale";

impl Codec {
    /// All that [`Codec::from_tensors`] needs to build it again; of an autoencoder without codes only its own tensors.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let prefixed = |prefix: &str, tensors: BTreeMap<String, HostTensor>| {
            let name = |(name, tensor)| (format!("{prefix}{name}"), tensor);
            tensors.into_iter().map(name).collect::<Vec<_>>()
        };
        let frozen = |tiny: &Tiny| {
            let parts = TINY.into_iter().zip(tiny.tensors());
            parts.flat_map(|(prefix, tensors)| prefixed(prefix, tensors)).collect()
        };
        match self {
            Self::Pixels(vq) => vq.tensors(),
            Self::Tiny(tiny) => frozen(tiny),
            Self::OnTiny { tiny, vq, latents, .. } => {
                let mut all: BTreeMap<_, _> = frozen(tiny);
                all.extend(prefixed(VQ, vq.tensors()));
                for (name, row) in [(SHIFT, &latents.shift), (SCALE, &latents.scale)] {
                    let tensor = HostTensor {
                        shape: vec![row.len()],
                        data: row.clone(),
                    };
                    all.insert(name.to_owned(), tensor);
                }
                all
            }
        }
    }

    /// Equal for two autoencoders whose codes and pictures are the same.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, tensor) in self.tensors() {
            hasher.update(name.as_bytes());
            for value in tensor.data {
                hasher.update(&value.to_le_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// An autoencoder with codes, of the tensors that lie below a prefix; `size` is the side of the pictures that it is used for.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing, misshapen or unknown, or parts do not fit together.
    pub fn from_tensors(source: &dyn TensorSource, prefix: &str, size: u32) -> Result<Self, WeightsError> {
        let part = |part: &str| below(Box::new(source), &format!("{prefix}{part}"));
        let shift = format!("{prefix}{SHIFT}");
        let Some(shape) = source.shape(&shift) else {
            return Ok(Self::Pixels(VqModel::load(&*part(""))?));
        };
        let [encoder, decoder] = TINY.map(part);
        let (tiny, vq) = (Tiny::load(&*encoder, &*decoder)?, VqModel::load(&*part(VQ))?);
        let refuse = |name: &str, problem: String| Err(WeightsError::metadata(source.path(), name, problem));
        let channels = tiny.channels();
        if vq.config().channels != channels || shape != [channels] {
            let reads = vq.config().channels;
            return refuse(
                &shift,
                format!("is {shape:?}, and the network reads {reads} channels of an autoencoder that has {channels}"),
            );
        }
        let row = |name: &str| Loader(source).values(name, &[channels]);
        let latents = Latents {
            shift: row(&shift)?,
            scale: row(&format!("{prefix}{SCALE}"))?,
        };
        match latents.fault(channels) {
            Some(fault) => refuse(&shift, fault),
            None => Ok(Self::OnTiny {
                tiny,
                vq,
                latents,
                size,
            }),
        }
    }
}
