//! The recipe of an autoencoder with a codebook (`method = "vq"`): no towers, no captions, and so a recipe of its own.

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_models::vq::{Tiny, VqConfig};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::check::{need, within};
use super::layers::{self, compare, explain, merge, parse_error, unlike, with_set};
use super::{ComputeSpec, OptimizerKind, OptimizerSpec, RecipeError, RunSpec, ScheduleKind, ScheduleSpec};

/// What `method` says.
const METHOD: &str = "vq";

/// A run that trains a codebook on the latents of a frozen autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqRecipe {
    /// `vq`.
    pub method: String,
    /// Seed of everything that is drawn: initial weights and codes, order of the pictures, windows.
    pub seed: u64,
    /// What stays frozen.
    pub autoencoder: AutoencoderSpec,
    /// The network that learns.
    pub latent: LatentSpec,
    /// Its codes.
    pub codebook: CodebookSpec,
    /// What a reconstruction is judged by.
    pub loss: VqLoss,
    /// The rule that moves the weights; `layer_decay` is of no use here.
    pub optimizer: OptimizerSpec,
    /// How the learning rate changes and how long the run is.
    pub schedule: ScheduleSpec,
    /// What is learnt from.
    pub data: PicturesSpec,
    /// How it is computed; a batch passes as a whole, so `micro_batch` and `recompute` are of no use here.
    pub compute: ComputeSpec,
    /// Checkpoints and reactions.
    pub run: RunSpec,
    /// Named partial recipes.
    #[serde(skip_serializing)]
    pub profile: BTreeMap<String, VqRecipe>,
}

/// `[autoencoder]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderSpec {
    /// Folder of a tiny autoencoder (TAEF2); looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub model: String,
}

/// `[latent]`: the convolutional network on the frozen autoencoder's latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatentSpec {
    /// Width at each resolution, each half of that before; multiples of 32. Two of them make a token of 16 × 16 pixels.
    pub widths: Vec<usize>,
    /// Residual blocks at each resolution in the encoder; the decoder has one more.
    pub blocks: usize,
    /// Whether positions attend to each other at the lowest resolution, as LlamaGen's do. What has learnt from windows of one size then may do worse on
    /// pictures of another.
    pub attention: bool,
    /// Width between the networks and the projections to and from codes.
    pub z_channels: usize,
}

/// `[codebook]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodebookSpec {
    /// Number of codes.
    pub codes: usize,
    /// Width of a code.
    pub dim: usize,
    /// Weight of the loss that keeps the encoder near its codes (β).
    pub commitment: f32,
    /// Steps after which codes that nothing has chosen since the last time become latents of the step's pictures; the first time before the first step,
    /// for all of them. 0: never.
    pub revive_every: u64,
    /// No codes are revived after this share of the run, so that the rest settles.
    pub revive_until: f64,
}

/// `[loss]`: weights of what a reconstruction is judged by, beside the codes' own terms. All but `latents` look at the pictures that the frozen
/// autoencoder's decoder makes, in −1…1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqLoss {
    /// Mean squared difference of latents.
    pub latents: f32,
    /// Mean squared difference of pixels.
    pub pixels: f32,
    /// Difference of the features of `perceptual_model`.
    pub perceptual: f32,
    /// Folder of an EfficientNet-Lite; looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub perceptual_model: String,
    /// Of the discriminator, which learns beside the network: of its own loss, and of what it says to the network.
    pub adversarial: f32,
    /// Steps before which there is no discriminator.
    pub adversarial_after: u64,
}

impl VqLoss {
    /// Whether pictures are looked at.
    pub fn sees(&self) -> bool {
        self.pixels > 0.0 || self.perceptual > 0.0 || self.adversarial > 0.0
    }
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PicturesSpec {
    /// Side of the squares that pictures become, in pixels: shorter side, then the middle.
    pub size: u32,
    /// Side of the windows of them that are learnt from, in pixels; drawn anew each time.
    pub window: u32,
    /// Windows per step.
    pub batch: usize,
    /// Where pictures are.
    pub sources: Vec<PictureSource>,
}

/// `[[data.sources]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureSource {
    /// Whatever `bifocal train` reads: a folder, a table, archives; captions and labels are not used.
    pub path: String,
    /// Kept out of training and listed in `holdout.json` of the run: below 1 a share of the pictures, otherwise their number. The same ones as every
    /// other recipe holds out.
    pub holdout: f64,
    /// How often each picture is seen per epoch.
    pub weight: f64,
}

impl Default for VqRecipe {
    /// LlamaGen's settings, where they do not depend on its size: Adam with β (0.9, 0.95), clipping at 1, codes of width 8, β = 0.25.
    fn default() -> Self {
        Self {
            method: String::new(),
            seed: 42,
            autoencoder: AutoencoderSpec::default(),
            latent: LatentSpec::default(),
            codebook: CodebookSpec::default(),
            loss: VqLoss::default(),
            optimizer: OptimizerSpec {
                kind: OptimizerKind::Adam,
                lr: 1e-4,
                weight_decay: 0.0,
                betas: [0.9, 0.95],
                eps: 1e-8,
                clip_norm: Some(1.0),
                ..OptimizerSpec::default()
            },
            schedule: ScheduleSpec {
                kind: ScheduleKind::Constant,
                ..ScheduleSpec::default()
            },
            data: PicturesSpec::default(),
            compute: ComputeSpec::default(),
            run: RunSpec::default(),
            profile: BTreeMap::new(),
        }
    }
}

impl Default for AutoencoderSpec {
    fn default() -> Self {
        Self {
            model: "models/taef2".to_owned(),
        }
    }
}

impl Default for LatentSpec {
    fn default() -> Self {
        Self {
            widths: vec![64, 128],
            blocks: 1,
            attention: false,
            z_channels: 128,
        }
    }
}

impl Default for CodebookSpec {
    fn default() -> Self {
        Self {
            codes: 4096,
            dim: 8,
            commitment: 0.25,
            revive_every: 50,
            revive_until: 0.7,
        }
    }
}

impl Default for VqLoss {
    /// Latents alone.
    fn default() -> Self {
        Self {
            latents: 1.0,
            pixels: 0.0,
            perceptual: 0.0,
            perceptual_model: "models/efficientnet-lite0".to_owned(),
            adversarial: 0.0,
            adversarial_after: 20_000,
        }
    }
}

impl Default for PicturesSpec {
    fn default() -> Self {
        Self {
            size: 256,
            window: 128,
            batch: 32,
            sources: Vec::new(),
        }
    }
}

impl Default for PictureSource {
    fn default() -> Self {
        Self {
            path: String::new(),
            holdout: 0.0,
            weight: 1.0,
        }
    }
}

impl VqRecipe {
    /// Whether a file is such a recipe: its `method` is `vq`. One that cannot be read is not; whoever reads it next says why.
    pub fn is(path: &Path) -> bool {
        let table = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| toml::from_str::<Table>(&text).ok());
        table.is_some_and(|table| table.get("method").and_then(Value::as_str) == Some(METHOD))
    }

    /// As [`super::Recipe::load`].
    ///
    /// # Errors
    /// As [`super::Recipe::load`].
    pub fn load(path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self, RecipeError> {
        Self::parse(&layers::file(path)?, path, profile, sets)
    }

    /// As [`VqRecipe::load`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`VqRecipe::load`].
    pub fn parse(text: &str, path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self, RecipeError> {
        // once for the keys, with their lines, in all profiles
        let whole: Self = toml::from_str(text).map_err(|e| parse_error(text, path, &e))?;
        let mut table: Table = toml::from_str(text).map_err(|e| parse_error(text, path, &e))?;
        let profiles = table.remove("profile");
        if let Some(name) = profile {
            let layer = match profiles {
                Some(Value::Table(mut profiles)) => profiles.remove(name),
                _ => None,
            };
            let Some(Value::Table(layer)) = layer else {
                let known: Vec<&str> = whole.profile.keys().map(String::as_str).collect();
                return Err(RecipeError::Profile {
                    path: path.to_owned(),
                    name: name.to_owned(),
                    known: if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    },
                });
            };
            merge(&mut table, layer);
        }
        for set in sets {
            let fail = |message: String| RecipeError::Set {
                set: set.clone(),
                message,
            };
            table = with_set(&table, set).map_err(fail)?;
            Self::deserialize(Value::Table(table.clone())).map_err(|e| fail(explain(e.message())))?;
        }
        // what a file does not say of these two is as here, not as other methods have it
        let defaults = Self::default();
        let mut layered = Table::new();
        for (key, value) in [
            ("optimizer", Value::try_from(&defaults.optimizer)),
            ("schedule", Value::try_from(&defaults.schedule)),
        ] {
            if let Ok(value) = value {
                layered.insert(key.to_owned(), value);
            }
        }
        merge(&mut layered, table);
        let recipe = Self::deserialize(Value::Table(layered)).map_err(|e| unlike(path, e.message()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The network's sizes, on so many channels.
    pub(crate) fn config(&self, channels: usize) -> VqConfig {
        VqConfig {
            channels,
            widths: self.latent.widths.clone(),
            blocks: self.latent.blocks,
            attention: self.latent.attention,
            z_channels: self.latent.z_channels,
            codes: self.codebook.codes,
            code_dim: self.codebook.dim,
        }
    }

    /// The recipe with every knob written out.
    pub fn to_toml(&self) -> String {
        match toml::to_string(self) {
            Ok(text) => text,
            Err(error) => unreachable!("a recipe is tables of numbers and strings: {error}"),
        }
    }

    /// The knobs in which two recipes differ, apart from those of `[run]`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |recipe: &Self| {
            let mut table = Value::try_from(recipe).unwrap_or(Value::Table(Table::new()));
            if let Value::Table(table) = &mut table {
                table.remove("run");
            }
            table
        };
        let mut out = Vec::new();
        compare("", Some(&table(self)), Some(&table(other)), &mut out);
        out
    }

    /// Checks that values are in range and fit each other.
    ///
    /// # Errors
    /// [`RecipeError::Value`] names the key.
    pub fn check(&self) -> Result<(), RecipeError> {
        need(self.method == METHOD, "method", || {
            format!("is {:?}, not {METHOD:?}", self.method)
        })?;
        if let Some(fault) = self.config(1).fault() {
            return need(false, "latent", || fault);
        }
        let largest = self
            .latent
            .widths
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.latent.z_channels);
        within("latent.widths", largest as f64, 1.0, 8192.0)?;
        within("latent.blocks", self.latent.blocks as f64, 1.0, 16.0)?;
        within("codebook.codes", self.codebook.codes as f64, 2.0, 4_194_304.0)?;
        within("codebook.dim", self.codebook.dim as f64, 1.0, 4096.0)?;
        within("codebook.commitment", f64::from(self.codebook.commitment), 0.0, 1e4)?;
        within("codebook.revive_until", self.codebook.revive_until, 0.0, 1.0)?;
        let loss = &self.loss;
        let weights = [
            ("loss.latents", loss.latents),
            ("loss.pixels", loss.pixels),
            ("loss.perceptual", loss.perceptual),
            ("loss.adversarial", loss.adversarial),
        ];
        for (key, weight) in weights {
            within(key, f64::from(weight), 0.0, 1e4)?;
        }
        need(loss.latents + loss.pixels + loss.perceptual > 0.0, "loss", || {
            "nothing says how like the picture the reconstruction is; give latents, pixels or perceptual a weight"
                .to_owned()
        })?;
        let (optimizer, schedule, data) = (&self.optimizer, &self.schedule, &self.data);
        within("optimizer.lr", optimizer.lr, 1e-12, 10.0)?;
        within("optimizer.weight_decay", optimizer.weight_decay, 0.0, 1e4)?;
        for beta in optimizer.betas {
            within("optimizer.betas", f64::from(beta), 0.0, 0.999_999)?;
        }
        within("optimizer.eps", f64::from(optimizer.eps), 1e-30, 1.0)?;
        if let Some(norm) = optimizer.clip_norm {
            within("optimizer.clip_norm", norm, 1e-9, 1e9)?;
        }
        let unused =
            |holds: bool, key, what: &str| need(holds, key, || format!("{what} takes no part here; leave it away"));
        unused(
            optimizer.layer_decay.is_empty(),
            "optimizer.layer_decay",
            "a tower's rate by layer",
        )?;
        self.compute.check()?;
        unused(self.compute.micro_batch == 0, "compute.micro_batch", "gradient caching")?;
        unused(!self.compute.recompute, "compute.recompute", "computing blocks again")?;
        within("schedule.warmup", schedule.warmup, 0.0, 1e12)?;
        within("schedule.cooldown", schedule.cooldown, 0.0, 1e12)?;
        need(
            schedule.steps.is_some() || schedule.epochs.is_some(),
            "schedule.steps",
            || "how long is the run? Write steps or epochs".to_owned(),
        )?;
        within("schedule.steps", schedule.steps.unwrap_or(1) as f64, 1.0, 1e12)?;
        within("schedule.epochs", schedule.epochs.unwrap_or(1.0), 1e-6, 1e9)?;
        let factor = (Tiny::FACTOR * self.config(1).factor()) as u32;
        within("data.size", f64::from(data.size), f64::from(factor), 2048.0)?;
        within(
            "data.window",
            f64::from(data.window),
            f64::from(factor),
            f64::from(data.size),
        )?;
        for (key, side) in [("data.size", data.size), ("data.window", data.window)] {
            need(side.is_multiple_of(factor), key, || {
                format!("{side} is not a multiple of the {factor} pixels of a token")
            })?;
        }
        // the discriminator's last convolutions see nothing of smaller ones
        need(loss.adversarial == 0.0 || data.window >= 32, "data.window", || {
            "a discriminator needs windows of at least 32 pixels".to_owned()
        })?;
        within("data.batch", data.batch as f64, 1.0, 65_536.0)?;
        need(!data.sources.is_empty(), "data.sources", || {
            "nothing to learn from; add a [[data.sources]] with a path".to_owned()
        })?;
        for source in &data.sources {
            need(!source.path.is_empty(), "data.sources", || {
                "a source has no path".to_owned()
            })?;
            within("data.sources.holdout", source.holdout, 0.0, 1e12)?;
            within("data.sources.weight", source.weight, 0.0, 1e4)?;
        }
        within("run.checkpoint_every", self.run.checkpoint_every as f64, 1.0, 1e12)?;
        within("run.explode", self.run.explode, 0.0, 1e12)
    }
}
