//! LlamaGen's VQ autoencoder (Sun et al. 2024, arXiv 2406.06525; `tokenizer/tokenizer_image/vq_model.py`).

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_nn::Module;
use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{Conv, GroupNorm, Pictures};

use super::blocks::{AttnBlock, EPS, GROUPS, ResBlock, normed};
use super::names::{Names, stored};
use super::quantizer::{Quantized, Quantizer};
use crate::blocks::check_sizes;
use crate::load::Loader;
use crate::weights::{HostTensor, TensorSource, WeightsError, below, open_stored, strict};

/// Keys under which a training program keeps the weights, the better ones first: averaged ones are what the authors evaluate.
const WRAPPERS: [&str; 4] = ["ema.", "model.", "state_dict.", ""];
/// Statistics of training that nothing reads.
const UNREAD: [&str; 1] = ["quantize.codebook_used"];
/// Levels and blocks of a level, at most: a hostile file must not keep the loader busy.
const MOST: usize = 16;

/// Sizes of a [`VqModel`]; all of them follow from the shapes of its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VqConfig {
    /// Channels of a picture: 3, or those of another autoencoder's latents.
    pub channels: usize,
    /// Width at each resolution, each half of that before; multiples of 32.
    pub widths: Vec<usize>,
    /// Residual blocks at each resolution in the encoder; the decoder has one more.
    pub blocks: usize,
    /// Whether positions attend to each other at the lowest resolution. Without it a picture may have any size.
    pub attention: bool,
    /// Width between the networks and the projections to and from codes.
    pub z_channels: usize,
    /// Number of codes.
    pub codes: usize,
    /// Width of a code.
    pub code_dim: usize,
}

impl VqConfig {
    /// `vq_ds16_t2i`: 16 × 16 pixels a token.
    pub fn ds16() -> Self {
        Self {
            channels: 3,
            widths: vec![128, 128, 256, 256, 512],
            blocks: 2,
            attention: true,
            z_channels: 256,
            codes: 16_384,
            code_dim: 8,
        }
    }

    /// Pixels (or latents) on a side of what becomes one code.
    pub fn factor(&self) -> usize {
        1 << self.widths.len().saturating_sub(1)
    }

    /// What is wrong with the sizes, if anything is.
    pub fn fault(&self) -> Option<String> {
        if self.widths.is_empty() || self.widths.len() > MOST {
            return Some(format!("{} resolutions are not 1…{MOST}", self.widths.len()));
        }
        if let Some(width) = self.widths.iter().find(|w| **w == 0 || !w.is_multiple_of(GROUPS)) {
            return Some(format!("a width of {width} is not a multiple of {GROUPS}"));
        }
        let sizes = [
            ("channels", self.channels),
            ("blocks", self.blocks),
            ("z_channels", self.z_channels),
            ("codes", self.codes),
            ("code_dim", self.code_dim),
        ];
        sizes
            .into_iter()
            .find(|(_, size)| *size == 0)
            .map(|(name, _)| format!("{name} is 0"))
    }

    fn of(at: Names) -> Result<Self, WeightsError> {
        let axis = |name: String, axis: usize| {
            let shape = at.source.shape(&at.full(&name)).unwrap_or_default();
            shape.get(axis).copied().unwrap_or(0)
        };
        let there = |name: String| at.source.shape(&at.full(&name)).is_some();
        let level = |l: usize| format!("encoder.conv_blocks.{l}");
        let block = |l: usize, i: usize| format!("{}.res.{i}.conv1.weight", level(l));
        let levels = (0..MOST).take_while(|&l| there(block(l, 0))).count();
        let config = Self {
            channels: axis("encoder.conv_in.weight".into(), 1),
            widths: (0..levels).map(|l| axis(block(l, 0), 0)).collect(),
            blocks: (0..MOST).take_while(|&i| there(block(0, i))).count(),
            attention: levels > 0 && there(format!("{}.attn.0.q.weight", level(levels - 1))),
            z_channels: axis("encoder.conv_out.weight".into(), 0),
            codes: axis("quantize.embedding.weight".into(), 0),
            code_dim: axis("quantize.embedding.weight".into(), 1),
        };
        let path = at.source.path();
        let sizes = [
            ("channels", config.channels),
            ("z_channels", config.z_channels),
            ("code_dim", config.code_dim),
        ];
        // names that are not there give zeros here, which would hide what is missing
        if levels > 0 && config.codes > 0 {
            check_sizes(path, &sizes)?;
            if let Some(fault) = config.fault() {
                return Err(WeightsError::metadata(path, "the VQ model", fault));
            }
            return Ok(config);
        }
        let missing = if levels == 0 {
            block(0, 0)
        } else {
            "quantize.embedding.weight".into()
        };
        let names = at.source.names();
        Err(WeightsError::missing(
            path,
            &at.full(&missing),
            names.iter().map(String::as_str),
        ))
    }
}

/// The blocks of one resolution, and the way to the next.
#[derive(Module, Debug)]
pub struct Level {
    res: Vec<ResBlock>,
    /// One after each residual block, or none.
    attn: Vec<AttnBlock>,
    resample: Option<Conv>,
}

impl Level {
    fn blocks(&self, mut x: Pictures) -> Pictures {
        for (i, res) in self.res.iter().enumerate() {
            x = res.forward(&x);
            if let Some(attn) = self.attn.get(i) {
                x = attn.forward(&x);
            }
        }
        x
    }
}

/// What stands between the levels and the codes, at the lowest resolution.
#[derive(Module, Debug)]
pub struct Middle {
    first: ResBlock,
    attn: Option<AttnBlock>,
    last: ResBlock,
}

impl Middle {
    fn new(width: usize, attention: bool, rng: &mut Rng) -> Self {
        Self {
            first: ResBlock::new(width, width, rng),
            attn: attention.then(|| AttnBlock::new(width, rng)),
            last: ResBlock::new(width, width, rng),
        }
    }

    fn load(source: &dyn TensorSource, prefix: &str, width: usize, attention: bool) -> Result<Self, WeightsError> {
        let at = |i: usize| format!("{prefix}.mid.{i}");
        Ok(Self {
            first: ResBlock::load(Names::at(source, &at(0)), width, width)?,
            attn: attention
                .then(|| AttnBlock::load(Names::at(source, &at(1)), width))
                .transpose()?,
            last: ResBlock::load(Names::at(source, &at(2)), width, width)?,
        })
    }

    fn forward(&self, x: &Pictures) -> Pictures {
        let mut x = self.first.forward(x);
        if let Some(attn) = &self.attn {
            x = attn.forward(&x);
        }
        self.last.forward(&x)
    }
}

/// Pictures to latents.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv,
    conv_blocks: Vec<Level>,
    mid: Middle,
    norm_out: GroupNorm,
    conv_out: Conv,
}

/// Latents to pictures.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv,
    mid: Middle,
    conv_blocks: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

/// One level's sizes: width before it, its own, number of blocks, whether it attends, whether another resolution follows.
type Sizes = (usize, usize, usize, bool, bool);

/// The levels of the encoder, in its order.
fn down(config: &VqConfig) -> Vec<Sizes> {
    let last = config.widths.len() - 1;
    let mut before = config.widths[0];
    let level = |(l, &width): (usize, &usize)| {
        let sizes = (before, width, config.blocks, config.attention && l == last, l < last);
        before = width;
        sizes
    };
    config.widths.iter().enumerate().map(level).collect()
}

/// The levels of the decoder, in its order.
fn up(config: &VqConfig) -> Vec<Sizes> {
    let last = config.widths.len() - 1;
    let mut before = config.widths[last];
    let level = |(l, &width): (usize, &usize)| {
        let sizes = (before, width, config.blocks + 1, config.attention && l == last, l > 0);
        before = width;
        sizes
    };
    config.widths.iter().enumerate().rev().map(level).collect()
}

fn new_level((before, width, blocks, attention, resample): Sizes, rng: &mut Rng) -> Level {
    let input = |i: usize| if i == 0 { before } else { width };
    Level {
        res: (0..blocks).map(|i| ResBlock::new(input(i), width, rng)).collect(),
        attn: match attention {
            true => (0..blocks).map(|_| AttnBlock::new(width, rng)).collect(),
            false => Vec::new(),
        },
        resample: resample.then(|| Conv::new(3, width, width, true, rng)),
    }
}

fn load_level(
    source: &dyn TensorSource,
    prefix: &str,
    how: &str,
    (before, width, blocks, attention, resample): Sizes,
) -> Result<Level, WeightsError> {
    let input = |i: usize| if i == 0 { before } else { width };
    let at = |what: &str, i: usize| format!("{prefix}.{what}.{i}");
    let res = (0..blocks).map(|i| ResBlock::load(Names::at(source, &at("res", i)), input(i), width));
    let attn =
        (0..if attention { blocks } else { 0 }).map(|i| AttnBlock::load(Names::at(source, &at("attn", i)), width));
    Ok(Level {
        res: res.collect::<Result<_, _>>()?,
        attn: attn.collect::<Result<_, _>>()?,
        resample: resample
            .then(|| Names::at(source, prefix).conv(&format!("{how}.conv"), 3, width, width))
            .transpose()?,
    })
}

impl Encoder {
    fn new(config: &VqConfig, rng: &mut Rng) -> Self {
        let last = config.widths[config.widths.len() - 1];
        Self {
            conv_in: Conv::new(3, config.channels, config.widths[0], true, rng),
            conv_blocks: down(config).into_iter().map(|sizes| new_level(sizes, rng)).collect(),
            mid: Middle::new(last, config.attention, rng),
            norm_out: GroupNorm::new(last, GROUPS, EPS),
            conv_out: Conv::new(3, last, config.z_channels, true, rng),
        }
    }

    fn load(config: &VqConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        let last = config.widths[config.widths.len() - 1];
        let names = Names { source, prefix };
        let level = |(l, sizes)| load_level(source, &format!("{prefix}.conv_blocks.{l}"), "downsample", sizes);
        Ok(Self {
            conv_in: names.conv("conv_in", 3, config.channels, config.widths[0])?,
            conv_blocks: down(config)
                .into_iter()
                .enumerate()
                .map(level)
                .collect::<Result<_, _>>()?,
            mid: Middle::load(source, prefix, last, config.attention)?,
            norm_out: names.norm("norm_out", last)?,
            conv_out: names.conv("conv_out", 3, last, config.z_channels)?,
        })
    }

    fn forward(&self, x: &Pictures) -> Pictures {
        let mut x = self.conv_in.same(x, Activation::Identity);
        for level in &self.conv_blocks {
            x = level.blocks(x);
            if let Some(conv) = &level.resample {
                // zeros at the bottom and the right only
                x = conv.padded(&x, 2, [0, 1, 0, 1], Activation::Identity);
            }
        }
        let x = self.mid.forward(&x);
        self.conv_out.same(&normed(&self.norm_out, &x), Activation::Identity)
    }
}

impl Decoder {
    fn new(config: &VqConfig, rng: &mut Rng) -> Self {
        let last = config.widths[config.widths.len() - 1];
        Self {
            conv_in: Conv::new(3, config.z_channels, last, true, rng),
            mid: Middle::new(last, config.attention, rng),
            conv_blocks: up(config).into_iter().map(|sizes| new_level(sizes, rng)).collect(),
            norm_out: GroupNorm::new(config.widths[0], GROUPS, EPS),
            conv_out: Conv::new(3, config.widths[0], config.channels, true, rng),
        }
    }

    fn load(config: &VqConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        let last = config.widths[config.widths.len() - 1];
        let names = Names { source, prefix };
        let level = |(l, sizes)| load_level(source, &format!("{prefix}.conv_blocks.{l}"), "upsample", sizes);
        Ok(Self {
            conv_in: names.conv("conv_in", 3, config.z_channels, last)?,
            mid: Middle::load(source, prefix, last, config.attention)?,
            conv_blocks: up(config)
                .into_iter()
                .enumerate()
                .map(level)
                .collect::<Result<_, _>>()?,
            norm_out: names.norm("norm_out", config.widths[0])?,
            conv_out: names.conv("conv_out", 3, config.widths[0], config.channels)?,
        })
    }

    fn forward(&self, z: &Pictures) -> Pictures {
        let x = self.conv_in.same(z, Activation::Identity);
        let mut x = self.mid.forward(&x);
        for level in &self.conv_blocks {
            x = level.blocks(x);
            if let Some(conv) = &level.resample {
                let twice = Pictures {
                    x: fused::upsample(x.x, x.n, x.size),
                    n: x.n,
                    size: x.size.map(|side| 2 * side),
                };
                x = conv.same(&twice, Activation::Identity);
            }
        }
        self.conv_out.same(&normed(&self.norm_out, &x), Activation::Identity)
    }
}

/// Encoder, codebook and decoder.
#[derive(Module, Debug)]
pub struct VqModel {
    encoder: Encoder,
    quant_conv: Conv,
    /// The codebook.
    pub quantize: Quantizer,
    post_quant_conv: Conv,
    decoder: Decoder,
    #[module(skip)]
    config: VqConfig,
}

impl VqModel {
    /// A network that has not learnt anything.
    ///
    /// # Errors
    /// [`VqConfig::fault`].
    pub fn new(config: VqConfig, rng: &mut Rng) -> Result<Self, String> {
        if let Some(fault) = config.fault() {
            return Err(fault);
        }
        Ok(Self {
            encoder: Encoder::new(&config, rng),
            quant_conv: Conv::new(1, config.z_channels, config.code_dim, true, rng),
            quantize: Quantizer::new(config.codes, config.code_dim, rng),
            post_quant_conv: Conv::new(1, config.code_dim, config.z_channels, true, rng),
            decoder: Decoder::new(&config, rng),
            config,
        })
    }

    /// Opens a file with the names of LlamaGen's release (`encoder.conv_blocks.0.res.0.conv1.weight`), which may lie below `ema`, `model` or
    /// `state_dict`.
    ///
    /// # Errors
    /// A file that cannot be read; [`WeightsError::Mismatch`] for tensors that are missing, misshapen or unknown.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let source = open_stored(path)?;
        let names = source.names();
        let begins = |wrapper: &&&str| {
            names
                .iter()
                .any(|name| name.starts_with(&format!("{wrapper}encoder.conv_in.")))
        };
        let wrapper = WRAPPERS.iter().find(begins).copied().unwrap_or("");
        Self::load(&*below(source, wrapper))
    }

    /// As [`VqModel::open`], of tensors without a wrapper.
    ///
    /// # Errors
    /// As [`VqModel::open`].
    pub fn load(source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let config = VqConfig::of(Names { source, prefix: "" })?;
        strict(source, &UNREAD, |source| {
            let names = Names { source, prefix: "" };
            let weight = Loader(source).embedding("quantize.embedding.weight", config.codes, config.code_dim)?;
            Ok(Self {
                encoder: Encoder::load(&config, source, "encoder")?,
                quant_conv: names.conv("quant_conv", 1, config.z_channels, config.code_dim)?,
                quantize: Quantizer { embedding: weight },
                post_quant_conv: names.conv("post_quant_conv", 1, config.code_dim, config.z_channels)?,
                decoder: Decoder::load(&config, source, "decoder")?,
                config,
            })
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &VqConfig {
        &self.config
    }

    /// Latents, before they are compared with codes. Sides of the pictures must be multiples of [`VqConfig::factor`].
    ///
    /// # Shapes
    /// `[n·h·w, channels]` (of pixels in −1…1) → `[n·h/factor·w/factor, code_dim]`.
    pub fn encode(&self, x: &Pictures) -> Pictures {
        let h = self.encoder.forward(x);
        self.quant_conv.same(&h, Activation::Identity)
    }

    /// As [`VqModel::encode`], to codes.
    pub fn quantized(&self, x: &Pictures) -> (Pictures, Quantized) {
        let z = self.encode(x);
        let quantized = self.quantize.forward(z.x.clone());
        (z.with(quantized.z.clone()), quantized)
    }

    /// Pictures of the codes' vectors.
    ///
    /// # Shapes
    /// `[n·h·w, code_dim]` → `[n·h·factor·w·factor, channels]`.
    pub fn decode(&self, z: &Pictures) -> Pictures {
        let z = self.post_quant_conv.same(z, Activation::Identity);
        self.decoder.forward(&z)
    }

    /// All tensors, with the names and the layout of the release.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        stored(self, |name| {
            let kernel = match name.rsplit('.').nth(1) {
                _ if name.ends_with(".bias") || name.contains("norm") || name.contains("embedding") => None,
                Some("q" | "k" | "v" | "proj_out" | "nin_shortcut" | "quant_conv" | "post_quant_conv") => Some(1),
                _ => Some(3),
            };
            let resample = if name.starts_with("encoder") {
                "downsample.conv"
            } else {
                "upsample.conv"
            };
            let places = [
                ("mid.first", "mid.0"),
                ("mid.attn", "mid.1"),
                ("mid.last", "mid.2"),
                ("resample", resample),
            ];
            let name = places
                .iter()
                .fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
            (name, kernel)
        })
    }
}
