//! From a recipe to everything that a run needs: towers, heads, data.

mod feed;
mod finish;
mod origin;
mod reference;
mod teacher;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bifocal_data::{ImageSource, Limits, ResizeMode};
use bifocal_models::adapter::{Head, HeadConfig};
use bifocal_models::bundle::{BundleError, Standardize, open_text_side, open_vision_side};
use bifocal_models::connector::MARGIN;
use bifocal_models::open::{TextEncoder, TextOptions, VisionEncoder, open_text};
use bifocal_models::towers::{Teacher, Towers};
use bifocal_nn::engine::{self, tensor, values};
use bifocal_nn::params;

use super::build::{
    all_params, attach, check_patch_dropout, check_stage, from_scratch, heads, leaves_out, on_codes, projector,
    text_options, token_encoder, untrained,
};
use super::collective::Ranks;
use super::corpus::{Corpus, Picture, Row};
use super::draw::Draw;
use super::features::Features;
use super::feed::Table;
use super::importance;
use super::judge::{HeldImages, HeldTexts, Judge};
use super::plan::Plan;
use super::schedule::Schedule;
use super::trainer::Trainer;
use super::{Overview, Progress, StageOverview, TrainError};
use crate::losses::Held;
use crate::methods::{self, Elastic, Stage, TeacherRows};
use crate::random::{INIT, mix};
use crate::recipe::{HeadKind, Recipe, RecipeError, SourceSpec};
pub(super) use origin::find;
use origin::{Origin, hash_of};
pub(super) use teacher::MOST_CODES;

/// A stage before it runs.
pub(crate) struct Prepared {
    pub stage: Stage,
    /// The recipe as the stage has it.
    pub recipe: Recipe,
    pub plan: Plan,
    pub schedule: Schedule,
    /// Into [`Setup::corpora`].
    pub corpus: usize,
    /// Likewise: pictures of no task.
    reference: Option<usize>,
}

/// A run before its first step and between its stages.
pub(crate) struct Setup {
    pub stages: Vec<Prepared>,
    /// A trainer has them while a stage runs. A tower is among them from the first stage on in which it learns; until then it is
    /// frozen, and its features are computed by the encoder below.
    moving: Option<Towers>,
    pub vision: VisionEncoder,
    pub text: TextEncoder,
    /// What a Q-Former began as, for its tokenizer.
    trunk: Option<TextEncoder>,
    /// A sentence with `{}` around each text.
    pub prompt: Option<String>,
    /// The text encoder as it was opened.
    text_fingerprint: String,
    vision_origin: Origin,
    text_origin: Origin,
    teacher_origin: Option<Origin>,
    /// What reference pictures are compared by, if not by the model that the run starts from.
    reference_origin: Option<Origin>,
    /// What former tasks need, and a hash of where it was read.
    pub held: Arc<BTreeMap<String, Held>>,
    held_hash: String,
    /// The heads of pictures and texts as the run began.
    former: [Head; 2],
    image_head: HeadConfig,
    text_head: HeadConfig,
    /// What stages learn from; those with the same `[data]` share one.
    pub corpora: Vec<Corpus>,
    standardize_image: Option<Standardize>,
    standardize_text: Option<Standardize>,
    /// For estimates: nothing is computed with frozen towers.
    pub features_are_made_up: bool,
}

impl Setup {
    /// Opens towers and data, builds heads. Computes no features and writes nothing.
    pub fn open(recipe: &Recipe) -> Result<Self, TrainError> {
        let mut corpora: Vec<Corpus> = Vec::new();
        let mut known: Vec<Vec<SourceSpec>> = Vec::new();
        let mut corpus = |sources: &[SourceSpec]| {
            if let Some(same) = known.iter().position(|known| known == sources) {
                return Ok::<_, TrainError>(same);
            }
            corpora.push(Corpus::open(sources, &recipe.text.facets, recipe.seed)?);
            known.push(sources.to_vec());
            Ok(known.len() - 1)
        };
        let mut stages = Vec::new();
        for (stage, recipe) in methods::stages(recipe)? {
            let of_task = corpus(&recipe.data.sources)?;
            let sources = recipe.reference.sources(&recipe.data);
            let reference = stage.needs.reference.then(|| corpus(sources)).transpose()?;
            stages.push((stage, recipe, (of_task, reference)));
        }
        let (vision_origin, mut vision) = match &recipe.vision.new {
            Some(new) => (Origin::nowhere(), from_scratch(new, recipe.seed)),
            None => {
                let origin = find("vision.model", &recipe.vision.model)?;
                let side = open_vision_side(&origin.path)?;
                (origin, side)
            }
        };
        if let Some(codes) = &recipe.vision.codes {
            vision = on_codes(vision, codes, recipe.seed)?;
        }
        if recipe.vision.patch_dropout > 0.0 {
            vision.encoder.tower = leaves_out(&vision.encoder, recipe.vision.patch_dropout)?;
        }
        if recipe.vision.reduce_to.is_some() {
            vision.encoder.preprocess.conventions.reduce_to = recipe.vision.reduce_to;
        }
        let text_origin = find("text.model", &recipe.text.model)?;
        if !recipe.vision.projection {
            vision.encoder.tower = vision.encoder.tower.without_projection();
        }
        let talks = stages.iter().any(|(stage, _, _)| stage.needs.dialogue.is_some());
        let trunk = match recipe.image_head.kind {
            HeadKind::QFormer => {
                let origin = find("qformer.trunk", &recipe.qformer.trunk)?;
                Some(open_text(&origin.path, &TextOptions::default()).map_err(BundleError::from)?)
            }
            _ => None,
        };
        if talks && recipe.chat.pad {
            vision.encoder.preprocess.resize = ResizeMode::Padded { fill: MARGIN };
        }
        let mut text = open_text_side(&text_origin.path, &text_options(recipe, talks))?;
        if recipe.text.from_scratch {
            text.encoder.tower = untrained(&text, recipe.seed)?;
        }
        let of_recipe = |(stage, ..): &(Stage, _, _)| {
            matches!(
                stage.needs.teacher,
                Some(TeacherRows::Texts | TeacherRows::Pictures { .. })
            )
        };
        let teacher_origin = match stages.iter().any(of_recipe) {
            true => Some(match recipe.teacher.model.as_str() {
                "" if recipe.vision.new.is_some() => {
                    return Err(RecipeError::Value {
                        key: "teacher.model",
                        message: "a new vision tower knows nothing that could be learnt from it; name a CLIP"
                            .to_owned(),
                    }
                    .into());
                }
                "" => vision_origin.clone(),
                name => find("teacher.model", name)?,
            }),
            false => None,
        };
        let referred = stages.iter().any(|(stage, _, _)| stage.needs.reference);
        let reference_origin = match recipe.reference.teacher.as_str() {
            name if referred && !name.is_empty() => Some(find("reference.teacher", name)?),
            _ => None,
        };
        for (which, (_, recipe, _)) in stages.iter().enumerate() {
            attach(
                &recipe.lora,
                &mut vision,
                &mut text,
                mix(recipe.seed, INIT, 2 + which as u64),
            )?;
        }
        let draws = match stages.iter().any(|(stage, ..)| stage.needs.draws()) {
            true => Some(token_encoder(&vision.encoder)?),
            false => None,
        };
        let (mut towers, image_head, text_head) = heads(recipe, &mut vision, &mut text, talks, trunk.as_ref(), draws)?;
        let former = [towers.image_head.clone(), towers.text_head.clone()];
        if let Some(config) = stages.iter().find_map(|(stage, _, _)| stage.projector.as_ref()) {
            towers.projector = Some(projector(config, recipe)?);
        }
        let params = all_params(&towers, &vision.encoder, &text.encoder);
        let holds = stages.iter().any(|(stage, _, _)| stage.elastic);
        let (held_hash, held) = importance::former(if holds { &recipe.elastic.former } else { "" }, &params)?;
        let held = Arc::new(held);
        let stages = stages
            .into_iter()
            .map(|(mut stage, recipe, (corpus, reference))| {
                if stage.elastic && !held.is_empty() && recipe.elastic.weight > 0.0 {
                    stage.objective = Box::new(Elastic {
                        task: stage.objective,
                        held: Arc::clone(&held),
                        weight: recipe.elastic.weight,
                    });
                }
                let rules: Vec<_> = stage.rules.iter().chain(&recipe.freeze).cloned().collect();
                let length = draw(&recipe, &corpora[corpus]).epoch_length();
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
                let plan = Plan::new(&params, &rules, &recipe.optimizer)?;
                check_stage(&stage, &recipe, &plan)?;
                Ok(Prepared {
                    plan,
                    schedule: Schedule::from_spec(
                        &recipe.schedule,
                        recipe.optimizer.lr,
                        length as usize,
                        recipe.data.batch * recipe.data.accumulate,
                    ),
                    stage,
                    recipe,
                    corpus,
                    reference,
                })
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        check_patch_dropout(recipe, stages.iter().map(|prepared| (&prepared.stage, &prepared.plan)))?;
        Ok(Self {
            stages,
            moving: Some(towers),
            prompt: recipe.text.prompt.clone().or(text.prompt),
            text_fingerprint: text.encoder.fingerprint.clone(),
            vision: vision.encoder,
            text: text.encoder,
            trunk,
            vision_origin,
            text_origin,
            teacher_origin,
            reference_origin,
            held,
            held_hash,
            former,
            image_head,
            text_head,
            corpora,
            standardize_image: None,
            standardize_text: None,
            features_are_made_up: false,
        })
    }

    pub fn overview(&self, recipe: &Recipe) -> Overview {
        let stage = |prepared: &Prepared| StageOverview {
            name: prepared.stage.name.to_owned(),
            plan: prepared.plan.clone(),
            steps: prepared.schedule.total(),
            batch: prepared.recipe.data.batch,
        };
        let of_all = |count: fn(&Corpus) -> usize| self.corpora.iter().map(count).sum();
        Overview {
            method: recipe.method.clone(),
            device: engine::name(&engine::device()),
            stages: self.stages.iter().map(stage).collect(),
            images: of_all(|corpus| corpus.rows.len()),
            held_out: self.held_out().len(),
            texts: of_all(|corpus| corpus.texts.len()),
            unusable: self.corpora.iter().flat_map(|c| c.unusable.iter().cloned()).collect(),
        }
    }

    /// A hash of the data and the pretrained towers.
    pub fn fingerprint(&self) -> String {
        let mut all = format!(
            "{} {} {}",
            self.vision.fingerprint,
            self.vision.preprocess.fingerprint(),
            self.text_fingerprint
        );
        if let Some(trunk) = &self.trunk {
            all.push(' ');
            all.push_str(&trunk.fingerprint);
        }
        for corpus in &self.corpora {
            all.push(' ');
            all.push_str(&corpus.fingerprint());
        }
        if !self.held_hash.is_empty() {
            all.push(' ');
            all.push_str(&self.held_hash);
        }
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    /// Pictures that no stage learns from.
    pub fn held_out(&self) -> Vec<super::corpus::HeldOut> {
        let mut all: Vec<_> = self.corpora.iter().flat_map(|c| c.held_out.iter().cloned()).collect();
        let mut seen = BTreeSet::new();
        all.retain(|held| seen.insert((held.source.clone(), held.image.clone())));
        all
    }

    /// Whether a tower has begun to learn by this stage.
    fn has_learnt(&self, prefix: &str, stage: usize) -> bool {
        self.stages[..=stage].iter().any(|s| s.plan.learns_below(prefix))
    }

    /// Whether features of a tower are computed once for a stage: it does not learn in it.
    fn stands_still(&self, prefix: &str, stage: usize) -> bool {
        !self.stages[stage].plan.learns_below(prefix)
    }

    /// What evaluates a stage: the held-out pictures as its towers see them. `None` when nothing was held out, or the stage learns from texts
    /// alone. Called after [`Setup::feed`], which puts frozen towers and statistics in place.
    pub fn judge(
        &self,
        stage: usize,
        progress: &mut dyn Progress,
        ranks: &dyn Ranks,
    ) -> Result<Option<Judge>, TrainError> {
        let prepared = &self.stages[stage];
        let recipe = &prepared.recipe;
        let held = &self.corpora[prepared.corpus].held;
        if !prepared.stage.needs.images
            || prepared.stage.needs.patches().is_some()
            || held.is_empty()
            || matches!(self.vision.preprocess.resize, ResizeMode::Patches { .. })
        {
            return Ok(None);
        }
        let limits = Limits::default();
        let readable = |(image, captions): &&(ImageSource, Vec<String>)| {
            !captions.is_empty() && image.open(&limits, self.vision.preprocess.conventions).is_ok()
        };
        let held: Vec<_> = held.iter().filter(readable).take(recipe.run.evaluate_on).collect();
        let pictures: Vec<ImageSource> = held.iter().map(|(image, _)| image.clone()).collect();
        let captions: Vec<String> = held.iter().flat_map(|(_, captions)| captions.clone()).collect();
        let owners = held
            .iter()
            .enumerate()
            .flat_map(|(i, (_, c))| std::iter::repeat_n(i, c.len()));
        let owners = owners.collect();
        if pictures.is_empty() {
            return Ok(None);
        }
        let prompt = recipe.text.facets.first().or(self.prompt.as_ref());
        let features = Features::new(
            Path::new(&recipe.run.cache),
            prompt.map(String::as_str),
            recipe.compute.precision,
            ranks,
        );
        let images = match self.stands_still("vision.", stage) {
            false => HeldImages::Pixels(self.vision.preprocess.clone()),
            true => {
                let mut table = features.held(&self.vision, &pictures, progress)?;
                if let Some(statistics) = &self.standardize_image {
                    statistics.apply(&mut table.values);
                }
                HeldImages::Features(table)
            }
        };
        let texts = match self.stands_still("text.", stage) {
            false => HeldTexts::Tokens(features.tokens(&self.text, &captions, None)?, self.text.pooling),
            true => {
                let mut table = features.texts(&self.text, &captions, progress)?;
                if let Some(statistics) = &self.standardize_text {
                    statistics.apply(&mut table.values);
                }
                HeldTexts::Features(table)
            }
        };
        Ok(Some(Judge {
            pictures,
            captions,
            owners,
            images,
            texts,
        }))
    }

    /// Puts towers that have learnt and now stand still into the encoders that compute features.
    fn take_over(&mut self, stage: usize, towers: &Towers) {
        let stands = |prefix: &str| self.stands_still(prefix, stage) && self.has_learnt(prefix, stage);
        let (vision, text) = (stands("vision."), stands("text."));
        if let Some(tower) = towers.vision.as_ref().filter(|_| vision) {
            let still = params::set_trainable(tower.clone(), |_| false);
            self.vision.fingerprint = hash_of(&still);
            self.vision.tower = still;
        }
        if let Some(tower) = towers.text.as_ref().filter(|_| text) {
            let still = params::set_trainable(tower.clone(), |_| false);
            // a language model's table of tokens is not among its parameters
            let both = format!("{} {}", self.text_fingerprint, hash_of(&still));
            self.text.fingerprint = blake3::hash(both.as_bytes()).to_hex().to_string();
            self.text.tower = still;
        }
    }

    /// Hands the towers to a trainer.
    pub fn trainer(&mut self, stage: usize) -> Trainer {
        let Some(mut towers) = self.moving.take() else {
            unreachable!("the trainer of the stage before has given them back");
        };
        let needs = &self.stages[stage].stage.needs;
        let talks = needs.dialogue.is_some();
        let looks = needs.patches().is_some_and(|(_, cache)| !cache);
        if towers.vision.is_none() && (looks || self.has_learnt("vision.", stage)) {
            towers.vision = Some(self.vision.tower.clone());
        }
        if towers.text.is_none() && (talks || self.has_learnt("text.", stage)) {
            towers.text = Some(self.text.tower.clone());
        }
        let prepared = &self.stages[stage];
        towers.teacher = match &towers.vision {
            Some(vision) if prepared.stage.keeps_teacher && prepared.plan.learns_below("vision.") => {
                let teacher = Teacher {
                    vision: vision.clone(),
                    image_head: towers.image_head.clone(),
                };
                Some(params::set_trainable(teacher, |_| false))
            }
            _ => None,
        };
        let learnt = self.stages[..=stage].iter().flat_map(|s| s.plan.names());
        let mut learnt: BTreeSet<String> = learnt.map(str::to_owned).collect();
        // what changes without a gradient
        let moves = |name: &str| name.starts_with("teacher.") || name.contains(".running_");
        learnt.extend(
            params::list(&towers)
                .into_iter()
                .map(|p| p.name)
                .filter(|name| moves(name)),
        );
        Trainer::new(towers, &prepared.plan, learnt, &prepared.recipe)
    }

    pub fn take_back(&mut self, trainer: Trainer) {
        self.moving = Some(trainer.into_towers());
    }
}

/// What a head makes of rows of features.
fn through(head: &Head, features: &Table) -> Table {
    let rows = features.values.len() / features.dim.max(1);
    Table {
        dim: head.dim(),
        values: values(head.forward(tensor(features.values.clone(), [rows, features.dim]), false)),
    }
}

/// Features of the rows that are pictures, or of all rows when none is.
fn of_pictures(corpus: &Corpus, table: &Table) -> Vec<f32> {
    let file = |row: &Row| matches!(row.picture, Picture::File(_));
    if !corpus.rows.iter().any(file) {
        return table.values.clone();
    }
    let rows = corpus.rows.iter().enumerate().filter(|(_, row)| file(row));
    rows.flat_map(|(i, _)| table.row(i)).copied().collect()
}

fn draw(recipe: &Recipe, corpus: &Corpus) -> Draw {
    Draw::new(recipe.seed, recipe.data.batch, corpus.shares.clone())
}
