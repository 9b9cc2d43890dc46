//! Tiny autoencoders with the layout of TAESD (<https://github.com/madebyollin/taesd>, MIT): 8 × 8 pixels a position, a stack of
//! three-convolution blocks of width 64 at each resolution. TAEF2, for FLUX.2's 32 channels, has blocks at the lowest resolution that first add
//! what a pair of 1×1 convolutions with a group norm between them sees of the whole picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bifocal_nn::Module;
use bifocal_nn::fused::{self, Activation};
use bifocal_nn::layers::{Conv, GroupNorm, Pictures};

use super::names::{Names, stored};
use crate::weights::{HostTensor, TensorSource, WeightsError, open, strict};

/// Groups of the norms of TAEF2, which its files do not say (`taesd.py`).
const GROUPS: usize = 4;
/// Residual blocks at each resolution below the highest one.
const BLOCKS: usize = 3;
/// Halvings of the picture.
const LEVELS: usize = 3;
/// The decoder reads 3·tanh(z / 3).
const RANGE: f32 = 3.0;

/// Three 3×3 convolutions with ReLU between them, beside the input; ReLU after the sum.
#[derive(Module, Debug)]
pub struct Block {
    pool: Option<Pool>,
    conv: Vec<Conv>,
}

/// 1×1 to four times the width, group norm, ReLU, 1×1 back, beside the input.
#[derive(Module, Debug)]
pub struct Pool {
    widen: Conv,
    norm: GroupNorm,
    narrow: Conv,
}

impl Block {
    fn load(source: &dyn TensorSource, index: usize, width: usize) -> Result<Self, WeightsError> {
        let prefix = index.to_string();
        let names = Names {
            source,
            prefix: &prefix,
        };
        let pool = source.shape(&names.full("pool.0.weight")).is_some().then(|| {
            Ok::<_, WeightsError>(Pool {
                widen: names.conv_with("pool.0", 1, width, 4 * width, false)?,
                norm: names.norm_with("pool.1", 4 * width, GROUPS, 1e-5)?,
                narrow: names.conv_with("pool.3", 1, 4 * width, width, false)?,
            })
        });
        let conv = [0, 2, 4].map(|i| names.conv(&format!("conv.{i}"), 3, width, width));
        Ok(Self {
            pool: pool.transpose()?,
            conv: conv.into_iter().collect::<Result<_, _>>()?,
        })
    }

    fn forward(&self, x: &Pictures) -> Pictures {
        let mut x = x.clone();
        if let Some(Pool { widen, norm, narrow }) = &self.pool {
            let h = norm.forward(&widen.same(&x, Activation::Identity));
            let h = h.with(fused::activation(h.x.clone(), Activation::Relu));
            let h = narrow.same(&h, Activation::Identity);
            x = x.with(x.x.clone() + h.x);
        }
        let mut h = x.clone();
        for (i, conv) in self.conv.iter().enumerate() {
            let act = match i + 1 == self.conv.len() {
                true => Activation::Identity,
                false => Activation::Relu,
            };
            h = conv.same(&h, act);
        }
        h.with(fused::activation(h.x.clone() + x.x, Activation::Relu))
    }
}

/// A tiny autoencoder: pixels in 0…1 to latents and back.
#[derive(Module, Debug)]
pub struct Tiny {
    conv_in: Conv,
    enter: Block,
    /// To each lower resolution: a step, then blocks.
    down: Vec<Conv>,
    encode: Vec<Vec<Block>>,
    to_latents: Conv,
    from_latents: Conv,
    decode: Vec<Vec<Block>>,
    /// After each upsampling.
    up: Vec<Conv>,
    leave: Block,
    conv_out: Conv,
    #[module(skip)]
    channels: usize,
}

impl Tiny {
    /// Pixels on a side of a position.
    pub const FACTOR: usize = 1 << LEVELS;

    /// The files of encoder and decoder in a folder: what their names end with (`taef2_encoder.safetensors`).
    ///
    /// # Errors
    /// A folder that cannot be read; `None` when it has not one file of each.
    pub fn files(folder: &Path) -> std::io::Result<Option<[PathBuf; 2]>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let mut found = [Vec::new(), Vec::new()];
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let known = path.extension().is_some_and(|e| e == "safetensors" || e == "pth");
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            for (found, end) in found.iter_mut().zip(["encoder", "decoder"]) {
                if known && stem.as_ref().is_some_and(|stem| stem.ends_with(end)) {
                    found.push(path.clone());
                }
            }
        }
        Ok(match found.each_ref().map(Vec::as_slice) {
            [[encoder], [decoder]] => Some([encoder.clone(), decoder.clone()]),
            _ => None,
        })
    }

    /// Opens the files of encoder and decoder.
    ///
    /// # Errors
    /// Files that cannot be read, or whose tensors are not those of the layout.
    pub fn open([encoder, decoder]: &[PathBuf; 2]) -> Result<Self, WeightsError> {
        Self::load(&*open(encoder)?, &*open(decoder)?)
    }

    /// As [`Tiny::open`], of tensors by their places in the sequence of layers (`3.conv.0.weight`).
    ///
    /// # Errors
    /// As [`Tiny::open`].
    pub fn load(encoder: &dyn TensorSource, decoder: &dyn TensorSource) -> Result<Self, WeightsError> {
        let axis = |name: &str| {
            encoder
                .shape(name)
                .and_then(|shape| shape.first().copied())
                .unwrap_or(1)
        };
        let (width, channels) = (axis("0.weight"), axis("14.weight"));
        fn blocks(source: &dyn TensorSource, first: usize, width: usize) -> Result<Vec<Block>, WeightsError> {
            (first..first + BLOCKS).map(|i| Block::load(source, i, width)).collect()
        }
        let step = BLOCKS + 1;
        let encoder = strict(encoder, &[], |source| {
            let names = Names { source, prefix: "" };
            let at = |level: usize| 2 + level * step;
            let down = |level: usize| names.conv_with(&at(level).to_string(), 3, width, width, false);
            Ok((
                names.conv("0", 3, 3, width)?,
                Block::load(source, 1, width)?,
                (0..LEVELS).map(down).collect::<Result<Vec<_>, _>>()?,
                (0..LEVELS)
                    .map(|level| blocks(source, at(level) + 1, width))
                    .collect::<Result<Vec<_>, WeightsError>>()?,
                names.conv(&at(LEVELS).to_string(), 3, width, channels)?,
            ))
        })?;
        let decoder = strict(decoder, &[], |source| {
            let names = Names { source, prefix: "" };
            // blocks, an upsampling, which has no tensors, and a convolution
            let at = |level: usize| 3 + level * (step + 1);
            let up = |level: usize| names.conv_with(&(at(level) + step).to_string(), 3, width, width, false);
            let end = at(LEVELS);
            Ok((
                names.conv("1", 3, channels, width)?,
                (0..LEVELS)
                    .map(|level| blocks(source, at(level), width))
                    .collect::<Result<Vec<_>, WeightsError>>()?,
                (0..LEVELS).map(up).collect::<Result<Vec<_>, _>>()?,
                Block::load(source, end, width)?,
                names.conv(&(end + 1).to_string(), 3, width, 3)?,
            ))
        })?;
        let (conv_in, enter, down, encode, to_latents) = encoder;
        let (from_latents, decode, up, leave, conv_out) = decoder;
        Ok(Self {
            conv_in,
            enter,
            down,
            encode,
            to_latents,
            from_latents,
            decode,
            up,
            leave,
            conv_out,
            channels,
        })
    }

    /// All tensors as [`Tiny::load`] reads them: those of the encoder and of the decoder.
    pub fn tensors(&self) -> [BTreeMap<String, HostTensor>; 2] {
        let mut parts = [BTreeMap::new(), BTreeMap::new()];
        let all = stored(self, |name| {
            let kernel = match name {
                _ if name.ends_with(".bias") || name.contains(".norm.") => None,
                _ if name.contains(".pool.") => Some(1),
                _ => Some(3),
            };
            (name.to_owned(), kernel)
        });
        for (name, tensor) in all {
            let (part, name) = place(&name);
            parts[part].insert(name, tensor);
        }
        parts
    }

    /// Channels of its latents.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Latents of pictures whose sides are multiples of [`Tiny::FACTOR`].
    ///
    /// # Shapes
    /// `[n·h·w, 3]` in 0…1 → `[n·h/8·w/8, channels]`.
    pub fn encode(&self, x: &Pictures) -> Pictures {
        let mut x = self.enter.forward(&self.conv_in.same(x, Activation::Identity));
        for (down, blocks) in self.down.iter().zip(&self.encode) {
            x = down.padded(&x, 2, [1; 4], Activation::Identity);
            x = blocks.iter().fold(x, |x, block| block.forward(&x));
        }
        self.to_latents.same(&x, Activation::Identity)
    }

    /// Pictures of latents; values may lie a little outside 0…1.
    ///
    /// # Shapes
    /// `[n·h·w, channels]` → `[n·8h·8w, 3]`.
    pub fn decode(&self, z: &Pictures) -> Pictures {
        let clamped = z.with((z.x.clone() / RANGE).tanh() * RANGE);
        let mut x = self.from_latents.same(&clamped, Activation::Relu);
        for (up, blocks) in self.up.iter().zip(&self.decode) {
            x = blocks.iter().fold(x, |x, block| block.forward(&x));
            let twice = Pictures {
                x: fused::upsample(x.x, x.n, x.size),
                n: x.n,
                size: x.size.map(|side| 2 * side),
            };
            x = up.same(&twice, Activation::Identity);
        }
        self.conv_out.same(&self.leave.forward(&x), Activation::Identity)
    }
}

/// From a parameter's path to the file, 0 for the encoder's, and the name that the layer has there, which is its place in a sequence.
fn place(path: &str) -> (usize, String) {
    let mut parts = path.split('.');
    let field = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok()).unwrap_or(0);
    let step = BLOCKS + 1;
    let (file, index) = match field {
        "conv_in" => (0, 0),
        "enter" => (0, 1),
        "down" => (0, 2 + number() * step),
        "encode" => (0, 3 + number() * step + number()),
        "to_latents" => (0, 2 + LEVELS * step),
        "from_latents" => (1, 1),
        "decode" => (1, 3 + number() * (step + 1) + number()),
        "up" => (1, 3 + number() * (step + 1) + step),
        "leave" => (1, 3 + LEVELS * (step + 1)),
        _ => (1, 4 + LEVELS * (step + 1)),
    };
    // of a block: three convolutions with activations between them, and what sees the whole picture
    let layer = match (parts.next(), parts.next(), parts.next()) {
        (Some("conv"), Some(i), Some(end)) => format!("conv.{}.{end}", 2 * i.parse::<usize>().unwrap_or(0)),
        (Some("pool"), Some("widen"), Some(end)) => format!("pool.0.{end}"),
        (Some("pool"), Some("norm"), Some(end)) => format!("pool.1.{end}"),
        (Some("pool"), Some(_), Some(end)) => format!("pool.3.{end}"),
        (Some(end), ..) => end.to_owned(),
        (None, ..) => String::new(),
    };
    (file, format!("{index}.{layer}"))
}
