//! From a recipe to everything that a run needs: towers, heads, data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bifocal_models::bundle::{self, Located, Manifest, Parts, SaveTower, Standardize, locate};
use bifocal_models::open::{TextEncoder, TextOptions, VisionEncoder, open_text, open_vision};
use bifocal_models::towers::Towers;
use bifocal_nn::init::Rng;
use bifocal_nn::params::{self, ParamInfo};

use super::corpus::{Corpus, Picture, Row};
use super::draw::{Draw, INIT, mix};
use super::features::Features;
use super::feed::{Feed, ImageFeed, Table, TextFeed};
use super::plan::Plan;
use super::schedule::Schedule;
use super::trainer::Trainer;
use super::{Overview, Progress, TrainError};
use crate::methods::{self, Method, Stage};
use crate::recipe::{LossKind, Recipe, RecipeError};

/// A pretrained tower: as the recipe names it and where it was found.
#[derive(Clone, Debug)]
struct Origin {
    name: String,
    path: PathBuf,
}

/// A run before its first step and between its stages.
pub(crate) struct Setup {
    pub stages: Vec<(Stage, Plan)>,
    pub schedule: Schedule,
    /// A trainer has them while a stage runs. A tower is among them from the first stage on in which it learns; until then it is
    /// frozen, and its features are computed by the encoder below.
    moving: Option<(Box<dyn Method>, Towers)>,
    pub vision: VisionEncoder,
    pub text: TextEncoder,
    vision_origin: Origin,
    text_origin: Origin,
    pub corpus: Corpus,
    standardize_image: Option<Standardize>,
    standardize_text: Option<Standardize>,
}

impl Setup {
    /// Opens towers and data, builds heads. Computes no features and writes nothing.
    pub fn open(recipe: &Recipe) -> Result<Self, TrainError> {
        let corpus = Corpus::open(&recipe.data)?;
        let vision_origin = find("vision.model", &recipe.vision.model)?;
        let text_origin = find("text.model", &recipe.text.model)?;
        let vision = open_vision(&vision_origin.path)?;
        let options = TextOptions {
            pooling: recipe.text.pooling,
            attention: recipe.text.attention,
            layer: recipe.text.layer,
            prompt: recipe.text.prompt_name.clone(),
        };
        let text = open_text(&text_origin.path, &options)?;
        let method = (methods::find(&recipe.method)?.build)(recipe);
        let towers = heads(recipe, &vision, &text)?;
        let params = all_params(&towers, &vision, &text);
        let stages = method
            .stages()
            .into_iter()
            .map(|stage| {
                let rules: Vec<_> = stage.rules.iter().chain(&recipe.freeze).cloned().collect();
                Ok((stage, Plan::new(&params, &rules, &recipe.optimizer)?))
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        let length = draw(recipe, &corpus).epoch_length();
        if length < recipe.data.batch as u64 {
            return Err(RecipeError::Value {
                key: "data.batch",
                message: format!(
                    "{} is more than the {length} samples of an epoch; set it lower",
                    recipe.data.batch
                ),
            }
            .into());
        }
        let schedule = Schedule::from_spec(
            &recipe.schedule,
            recipe.optimizer.lr,
            length as usize,
            recipe.data.batch,
        );
        Ok(Self {
            stages,
            schedule,
            moving: Some((method, towers)),
            vision,
            text,
            vision_origin,
            text_origin,
            corpus,
            standardize_image: None,
            standardize_text: None,
        })
    }

    pub fn overview(&self, recipe: &Recipe) -> Overview {
        Overview {
            method: recipe.method.clone(),
            stages: self
                .stages
                .iter()
                .map(|(s, p)| (s.name.to_owned(), p.clone()))
                .collect(),
            steps: self.schedule.total(),
            images: self.corpus.rows.len(),
            held_out: self.corpus.held_out.len(),
            texts: self.corpus.texts.len(),
            unusable: self.corpus.unusable.clone(),
        }
    }

    /// A hash of the data and the pretrained towers.
    pub fn fingerprint(&self) -> String {
        let all = format!(
            "{} {} {} {}",
            self.corpus.fingerprint(),
            self.vision.fingerprint,
            self.vision.preprocess.fingerprint(),
            self.text.fingerprint
        );
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    /// The list of held-out pictures as JSON.
    pub fn held_out(&self) -> String {
        match serde_json::to_string_pretty(&self.corpus.held_out) {
            Ok(json) => json + "\n",
            Err(error) => unreachable!("a list of texts is JSON: {error}"),
        }
    }

    /// Whether a tower has begun to learn by this stage.
    fn has_learnt(&self, prefix: &str, stage: usize) -> bool {
        self.stages
            .iter()
            .take(stage + 1)
            .any(|(_, plan)| plan.learns_below(prefix))
    }

    /// The data of a stage; features of frozen towers are computed here, or taken from the cache.
    pub fn feed(&mut self, recipe: &Recipe, stage: usize, progress: &mut dyn Progress) -> Result<Feed, TrainError> {
        let features = Features::new(Path::new(&recipe.run.cache), recipe.text.prompt.as_deref());
        let learning_with = |key: &'static str, tower: &str| RecipeError::Value {
            key,
            message: format!("features change while the {tower} tower learns; freeze it, or take this out"),
        };
        let images = if self.has_learnt("vision.", stage) {
            if recipe.image_head.standardize_input {
                return Err(learning_with("image_head.standardize_input", "vision").into());
            }
            if self.corpus.has_classes() {
                return Err(learning_with("data.sources.kind = \"classifier\"", "vision").into());
            }
            ImageFeed::Pixels(self.vision.preprocess.clone())
        } else {
            let mut table = features.images(&self.vision, &mut self.corpus, recipe.data.class_rows, progress)?;
            if recipe.image_head.standardize_input {
                let statistics = Standardize::fit(&self.of_pictures(&table), table.dim);
                statistics.apply(&mut table.values);
                self.standardize_image = Some(statistics);
            }
            ImageFeed::Features(table)
        };
        let texts = if self.has_learnt("text.", stage) {
            if recipe.text_head.standardize_input {
                return Err(learning_with("text_head.standardize_input", "text").into());
            }
            TextFeed::Tokens(features.tokens(&self.text, &self.corpus.texts)?, self.text.pooling)
        } else {
            let mut table = features.texts(&self.text, &self.corpus.texts, progress)?;
            if recipe.text_head.standardize_input {
                let statistics = Standardize::fit(&table.values, table.dim);
                statistics.apply(&mut table.values);
                self.standardize_text = Some(statistics);
            }
            TextFeed::Features(table)
        };
        let captions = match &self.moving {
            Some((method, _)) => method.needs(&self.stages[stage].0).captions,
            None => 1,
        };
        Ok(Feed {
            rows: self.corpus.rows.clone(),
            draw: draw(recipe, &self.corpus),
            captions,
            images,
            texts,
            told: BTreeSet::new(),
        })
    }

    /// Features of the rows that are pictures, or of all rows when none is.
    fn of_pictures(&self, table: &Table) -> Vec<f32> {
        let file = |row: &Row| matches!(row.picture, Picture::File(_));
        if !self.corpus.rows.iter().any(file) {
            return table.values.clone();
        }
        let rows = self.corpus.rows.iter().enumerate().filter(|(_, row)| file(row));
        rows.flat_map(|(i, _)| table.row(i)).copied().collect()
    }

    /// Hands method and towers to a trainer.
    pub fn trainer(&mut self, recipe: &Recipe, stage: usize) -> Trainer {
        let Some((method, mut towers)) = self.moving.take() else {
            unreachable!("the trainer of the stage before has given them back");
        };
        if towers.vision.is_none() && self.has_learnt("vision.", stage) {
            towers.vision = Some(self.vision.tower.clone());
        }
        if towers.text.is_none() && self.has_learnt("text.", stage) {
            towers.text = Some(self.text.tower.clone());
        }
        let learnt = self.stages.iter().take(stage + 1).flat_map(|(_, plan)| plan.names());
        let learnt = learnt.map(str::to_owned).collect();
        let plan = self.stages[stage].1.clone();
        Trainer::new(method, towers, plan, learnt, &recipe.optimizer, recipe.seed)
    }

    pub fn take_back(&mut self, trainer: Trainer) {
        self.moving = Some(trainer.into_parts());
    }

    /// Writes the bundle.
    pub fn save(&self, recipe: &Recipe, dir: &Path) -> Result<Manifest, TrainError> {
        let Some((_, towers)) = &self.moving else {
            unreachable!("the last trainer has given the towers back");
        };
        let tower = |origin: &Origin, fingerprint: &str, trained: bool| SaveTower {
            name: origin.name.clone(),
            path: origin.path.clone(),
            fingerprint: fingerprint.to_owned(),
            trained,
        };
        let parts = Parts {
            method: &recipe.method,
            licence: None,
            towers,
            vision: tower(&self.vision_origin, &self.vision.fingerprint, towers.vision.is_some()),
            text: tower(&self.text_origin, &self.text.fingerprint, towers.text.is_some()),
            pooling: self.text.pooling,
            attention: self.text.attention,
            layer: recipe.text.layer,
            prompt_name: recipe.text.prompt_name.clone(),
            prompt: recipe.text.prompt.clone(),
            preprocess: self.vision.preprocess.clone(),
            image_head: recipe.image_head.config(recipe.embed_dim),
            text_head: recipe.text_head.config(recipe.embed_dim),
            standardize_image: self.standardize_image.as_ref(),
            standardize_text: self.standardize_text.as_ref(),
            copy_towers: recipe.run.copy_towers,
        };
        Ok(bundle::save(dir, &parts)?)
    }
}

fn find(key: &'static str, name: &str) -> Result<Origin, TrainError> {
    match locate(name, None) {
        Located::At(path) => Ok(Origin {
            name: name.to_owned(),
            path,
        }),
        Located::Nowhere(places) => Err(TrainError::TowerMissing {
            key,
            name: name.to_owned(),
            looked: places
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn draw(recipe: &Recipe, corpus: &Corpus) -> Draw {
    Draw::new(recipe.seed, recipe.data.batch, corpus.shares.clone())
}

/// Fresh heads and temperature, without towers.
fn heads(recipe: &Recipe, vision: &VisionEncoder, text: &TextEncoder) -> Result<Towers, TrainError> {
    let rng = |which| Rng::new(mix(recipe.seed, INIT, which));
    let image = recipe
        .image_head
        .config(recipe.embed_dim)
        .build(vision.tower.dim(), &mut rng(0))?;
    let text = recipe
        .text_head
        .config(recipe.embed_dim)
        .build(text.tower.dim(), &mut rng(1))?;
    let bias = (recipe.loss.kind == LossKind::Sigmoid).then_some(recipe.loss.bias_init);
    Ok(Towers::new(None, None, image, text, recipe.loss.scale_init.ln(), bias))
}

/// Parameters of heads and towers under the names that they have when both towers are in place.
fn all_params(towers: &Towers, vision: &VisionEncoder, text: &TextEncoder) -> Vec<ParamInfo> {
    let below = |prefix: &str, list: Vec<ParamInfo>| {
        let named = |info: ParamInfo| ParamInfo {
            name: format!("{prefix}.{}", info.name),
            ..info
        };
        list.into_iter().map(named).collect::<Vec<_>>()
    };
    let mut all = below("vision", params::list(&vision.tower));
    all.extend(below("text", params::list(&text.tower)));
    all.extend(params::list(towers));
    all
}
