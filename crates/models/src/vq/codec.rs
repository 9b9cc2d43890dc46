//! Pictures to codes and back, whichever autoencoder does it, and the folder that a trained one lives in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bifocal_data::atomic::write_atomic;
use bifocal_kernels::elements::Element;
use bifocal_nn::Tensor;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::layers::Pictures;
use serde::{Deserialize, Serialize};

use super::{Tiny, VqModel};
use crate::weights::{WeightsError, write};

/// What describes a [`VqModel`] on top of a [`Tiny`] in its folder.
pub const VQ_FILE: &str = "vq.json";
const WEIGHTS: &str = "vq.safetensors";
/// Copies of the frozen autoencoder's files; their names end as it looks for them.
const FROZEN: [&str; 2] = ["frozen_encoder", "frozen_decoder"];
/// Side of the pictures that LlamaGen's tokenizers and the tiny autoencoders are usually given.
const SIDE: u32 = 256;
/// Pixels of a picture, at most.
const MOST_PIXELS: usize = 1 << 24;

/// Why pictures do not become codes, or codes pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder's description does not fit its weights.
    #[error("{path}: {message}", path = path.display())]
    Manifest {
        /// The description.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// A picture, or a grid of codes, that it cannot take.
    #[error("{0}")]
    Unfit(String),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CodecError {
    let path = path.to_owned();
    move |source| CodecError::Io { path, source }
}

/// The latents that a [`VqModel`] reads and writes in place of pixels: channel by channel those of a frozen autoencoder, less `shift`, over `scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latents {
    /// Mean of each channel over the training pictures.
    pub shift: Vec<f32>,
    /// Standard deviation of each channel.
    pub scale: Vec<f32>,
}

impl Latents {
    /// Mean and standard deviation of channels.
    ///
    /// # Shapes
    /// `rows`: slices of `[positions, channels]`.
    pub fn of<'a>(rows: impl Iterator<Item = &'a [f32]> + Clone, channels: usize) -> Self {
        let mean = |of: &dyn Fn(usize, f64) -> f64| {
            let (mut sums, mut count) = (vec![0.0; channels], 0usize);
            for row in rows.clone().flat_map(|rows| rows.chunks_exact(channels.max(1))) {
                count += 1;
                sums.iter_mut()
                    .zip(row)
                    .enumerate()
                    .for_each(|(c, (sum, v))| *sum += of(c, f64::from(*v)));
            }
            sums.into_iter()
                .map(|sum| sum / count.max(1) as f64)
                .collect::<Vec<f64>>()
        };
        let shift = mean(&|_, v| v);
        let variance = mean(&|c, v| (v - shift[c]).powi(2));
        Self {
            scale: variance.iter().map(|v| v.sqrt().max(1e-6) as f32).collect(),
            shift: shift.into_iter().map(|v| v as f32).collect(),
        }
    }

    fn rows(&self) -> [Tensor<2>; 2] {
        let row = |v: &Vec<f32>| tensor(v.clone(), [1, v.len()]);
        [row(&self.shift), row(&self.scale)]
    }

    /// What the network reads.
    pub fn enter(&self, z: &Pictures) -> Pictures {
        let [shift, scale] = self.rows();
        z.with((z.x.clone() - shift) / scale)
    }

    /// What the autoencoder reads.
    pub fn leave(&self, z: &Pictures) -> Pictures {
        let [shift, scale] = self.rows();
        z.with(z.x.clone() * scale + shift)
    }

    pub(super) fn fault(&self, channels: usize) -> Option<String> {
        let fits = self.shift.len() == channels && self.scale.len() == channels;
        let usable = self.shift.iter().all(|v| v.is_finite()) && self.scale.iter().all(|v| v.is_finite() && *v > 0.0);
        (!fits || !usable)
            .then(|| format!("latents.shift and latents.scale must be {channels} numbers, scales above 0"))
    }
}

/// `vq.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Layout of the folder.
    format: u32,
    /// Side of the pictures that it was made for.
    size: u32,
    latents: Latents,
}

/// What turns pictures into codes, or only into latents.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there is one in a process
pub enum Codec {
    /// On pixels.
    Pixels(VqModel),
    /// Without codes: what another one on top of it cannot surpass.
    Tiny(Tiny),
    /// On a tiny autoencoder's latents.
    OnTiny {
        /// The frozen autoencoder.
        tiny: Tiny,
        /// The network on its latents.
        vq: VqModel,
        /// How latents are scaled.
        latents: Latents,
        /// Side of the pictures that it was made for.
        size: u32,
    },
}

impl Codec {
    /// Opens a folder that training has written (`vq.json`), a folder with the two files of a tiny autoencoder, or a file of LlamaGen's.
    ///
    /// # Errors
    /// What cannot be read, or does not fit together.
    pub fn open(path: &Path) -> Result<Self, CodecError> {
        let described = path.join(VQ_FILE);
        if described.is_file() {
            return Self::trained(path, &described);
        }
        match Tiny::files(path).map_err(io(path))? {
            Some(files) => Ok(Self::Tiny(Tiny::open(&files)?)),
            None => Ok(Self::Pixels(VqModel::open(path)?)),
        }
    }

    fn trained(folder: &Path, path: &Path) -> Result<Self, CodecError> {
        let fail = |message: String| CodecError::Manifest {
            path: path.to_owned(),
            message: format!("{message}; copy the whole folder again"),
        };
        let text = fs::read_to_string(path).map_err(io(path))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        let files = Tiny::files(folder).map_err(io(folder))?;
        let files = files.ok_or_else(|| fail("the frozen autoencoder is not beside it".to_owned()))?;
        let (tiny, vq) = (Tiny::open(&files)?, VqModel::open(&folder.join(WEIGHTS))?);
        let Manifest { format, size, latents } = manifest;
        if format != 1 {
            return Err(fail(format!("format {format} is not 1")));
        }
        if vq.config().channels != tiny.channels() {
            let (reads, gives) = (vq.config().channels, tiny.channels());
            return Err(fail(format!(
                "{WEIGHTS} reads {reads} channels, the autoencoder has {gives}"
            )));
        }
        if let Some(fault) = latents.fault(tiny.channels()) {
            return Err(fail(fault));
        }
        Ok(Self::OnTiny {
            tiny,
            vq,
            latents,
            size,
        })
    }

    /// Writes the folder of a trained network: its weights in LlamaGen's names, and copies of the autoencoder's files.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(
        folder: &Path,
        vq: &VqModel,
        latents: &Latents,
        size: u32,
        autoencoder: &[PathBuf; 2],
    ) -> Result<(), CodecError> {
        fs::create_dir_all(folder).map_err(io(folder))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            write_atomic(&path, |file| std::io::Write::write_all(file, bytes)).map_err(io(&path))
        };
        for (from, name) in autoencoder.iter().zip(FROZEN) {
            let bytes = fs::read(from).map_err(io(from))?;
            let extension = from.extension().unwrap_or_default().to_string_lossy();
            put(&format!("{name}.{extension}"), &bytes)?;
        }
        let fail = |message: String| CodecError::Manifest {
            path: folder.join(WEIGHTS),
            message,
        };
        let bytes = write::bytes(&vq.tensors(), Element::F32, None).map_err(|e| fail(e.to_string()))?;
        put(WEIGHTS, &bytes)?;
        let manifest = Manifest {
            format: 1,
            size,
            latents: latents.clone(),
        };
        let json = serde_json::to_vec_pretty(&manifest).map_err(|e| fail(e.to_string()))?;
        // last: the folder is one of ours when all of it is there
        put(VQ_FILE, &json)
    }

    /// Side of the pictures that it was made for.
    pub fn size(&self) -> u32 {
        match self {
            Self::OnTiny { size, .. } => *size,
            Self::Pixels(_) | Self::Tiny(_) => SIDE,
        }
    }

    /// Pixels on a side of what one code, or one latent, stands for.
    pub fn factor(&self) -> usize {
        match self {
            Self::Pixels(vq) => vq.config().factor(),
            Self::Tiny(_) => Tiny::FACTOR,
            Self::OnTiny { vq, .. } => Tiny::FACTOR * vq.config().factor(),
        }
    }

    /// Number of codes; `None` when there are none.
    pub fn codes(&self) -> Option<usize> {
        match self {
            Self::Pixels(vq) | Self::OnTiny { vq, .. } => Some(vq.config().codes),
            Self::Tiny(_) => None,
        }
    }

    /// Codes of a picture, row by row.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] when its sides are not multiples of [`Codec::factor`], it is too large, or there are no codes.
    ///
    /// # Shapes
    /// `pixels` `[h, w, 3]` in 0…1 → `[h/factor, w/factor]`.
    pub fn encode(&self, pixels: &[f32], size: [usize; 2]) -> Result<Vec<u32>, CodecError> {
        let x = self.picture(pixels, size)?;
        let codes = match self {
            Self::Pixels(vq) => vq.quantize.codes(&vq.encode(&x.with(x.x.clone() * 2.0 - 1.0)).x),
            Self::OnTiny { tiny, vq, latents, .. } => vq.quantize.codes(&vq.encode(&latents.enter(&tiny.encode(&x))).x),
            Self::Tiny(_) => return Err(no_codes()),
        };
        Ok(codes.to_vec())
    }

    /// The picture of codes.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] when codes are unknown, or are not as many as the grid has places.
    ///
    /// # Shapes
    /// `codes` `[h, w]` → `[h·factor, w·factor, 3]` in 0…1.
    pub fn decode(&self, codes: &[u32], grid: [usize; 2]) -> Result<Vec<f32>, CodecError> {
        let side = |i: usize| grid[i].checked_mul(self.factor());
        let pixels = side(0).and_then(|h| h.checked_mul(side(1)?)).unwrap_or(usize::MAX);
        if codes.is_empty() || grid[0].checked_mul(grid[1]) != Some(codes.len()) || pixels > MOST_PIXELS {
            let [h, w] = grid;
            return Err(CodecError::Unfit(format!(
                "{} codes are not a picture of {h} × {w} codes, and of at most {MOST_PIXELS} pixels",
                codes.len()
            )));
        }
        let known = self.codes().ok_or_else(no_codes)?;
        if let Some(code) = codes.iter().find(|code| **code as usize >= known) {
            return Err(CodecError::Unfit(format!(
                "there is no code {code}: the codebook has {known}; decode with the model that made the codes"
            )));
        }
        let codes: Arc<[u32]> = codes.into();
        let of = |vq: &VqModel| {
            vq.decode(&Pictures {
                x: vq.quantize.lookup(&codes),
                n: 1,
                size: grid,
            })
        };
        let x = match self {
            Self::Pixels(vq) => (of(vq).x + 1.0) / 2.0,
            Self::OnTiny { tiny, vq, latents, .. } => tiny.decode(&latents.leave(&of(vq))).x,
            Self::Tiny(_) => return Err(no_codes()),
        };
        Ok(values(x.clamp(0.0, 1.0)))
    }

    /// The picture of a picture's latents, without codes: of a network on top of a frozen autoencoder, what that one alone gives, and so its
    /// ceiling. `None` when there is no such thing.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    ///
    /// # Shapes
    /// `[h, w, 3]` in 0…1, both.
    pub fn ceiling(&self, pixels: &[f32], size: [usize; 2]) -> Result<Option<Vec<f32>>, CodecError> {
        let (Self::Tiny(tiny) | Self::OnTiny { tiny, .. }) = self else {
            return Ok(None);
        };
        let x = self.picture(pixels, size)?;
        Ok(Some(values(tiny.decode(&tiny.encode(&x)).x.clamp(0.0, 1.0))))
    }

    fn picture(&self, pixels: &[f32], size: [usize; 2]) -> Result<Pictures, CodecError> {
        let [h, w] = size;
        let area = h.checked_mul(w).filter(|area| (1..=MOST_PIXELS).contains(area));
        let factor = self.factor();
        let fits = h.is_multiple_of(factor) && w.is_multiple_of(factor);
        match area {
            Some(area) if fits && pixels.len() == 3 * area => Ok(Pictures {
                x: tensor(pixels.to_vec(), [area, 3]),
                n: 1,
                size,
            }),
            _ => Err(CodecError::Unfit(format!(
                "a picture of {w} × {h} pixels ({} values) does not fit: sides must be multiples of {factor}, and there may be {MOST_PIXELS} pixels",
                pixels.len()
            ))),
        }
    }
}

fn no_codes() -> CodecError {
    CodecError::Unfit(
        "this autoencoder has no codes; train some on top of it (recipes/vq.toml), or leave --out and --decode away"
            .to_owned(),
    )
}
