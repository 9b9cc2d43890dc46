//! The data of a stage, with what frozen towers make of it.

use std::collections::BTreeSet;
use std::path::Path;

use bifocal_models::bundle::{Model, Standardize};
use bifocal_models::open::TextOptions;
use bifocal_models::towers::Towers;
use bifocal_models::unified::Drawing;

use super::{Setup, draw, of_pictures, through};
use crate::methods::TeacherRows;
use crate::recipe::RecipeError;
use crate::train::ahead::Ahead;
use crate::train::collective::Ranks;
use crate::train::corpus::Corpus;
use crate::train::features::Features;
use crate::train::feed::{Feed, ImageFeed, TextFeed};
use crate::train::{Progress, TrainError};

impl Setup {
    /// The data of a stage; features of frozen towers are computed here, or taken from the cache. Of a tower that has learnt in an earlier
    /// stage, `towers` holds what it has become.
    pub fn feed(
        &mut self,
        stage: usize,
        towers: &Towers,
        progress: &mut dyn Progress,
        ranks: &dyn Ranks,
    ) -> Result<Feed, TrainError> {
        self.take_over(stage, towers);
        let recipe = self.stages[stage].recipe.clone();
        let needs = self.stages[stage].stage.needs.clone();
        let mut features = Features::new(
            Path::new(&recipe.run.cache),
            self.prompt.as_deref(),
            recipe.compute.precision,
            ranks,
        );
        features.made_up = self.features_are_made_up;
        let (vision_still, text_still) = (self.stands_still("vision.", stage), self.stands_still("text.", stage));
        // pictures that cannot be read are left out of this stage's rows, not of the corpus: what a resumed run learns from must not depend
        // on the stages before
        let corpus = &mut self.corpora[self.stages[stage].corpus].clone();
        if needs.images {
            with_pictures(corpus)?;
        }
        let (mut teacher_images, mut teacher_texts, mut teacher_tokens) = (None, None, None);
        if let Some(TeacherRows::Pictures { tokens }) = needs.teacher
            && let Some(seen) = self.seen_by_teacher(&recipe, tokens, &features, corpus, progress)?
        {
            teacher_images = Some(seen.pictures);
            teacher_tokens = seen.tokens;
        }
        let readable = corpus.rows.len();
        let mut each = 0;
        let images = if !needs.images {
            ImageFeed::None
        } else if let Some((tap, cache)) = needs.patches() {
            if corpus.has_classes() {
                return Err(learning_with("data.sources.kind = \"classifier\"", "language").into());
            }
            if needs.draws() {
                let (table, codes) = features.drawn(&self.vision, corpus, progress)?;
                each = Drawing::rows(codes);
                ImageFeed::Drawn(table, codes)
            } else if cache {
                let (table, patches) = features.patches(&self.vision, &tap, corpus, progress)?;
                each = patches;
                ImageFeed::Patches(table, patches)
            } else {
                let side = self.vision.preprocess.size as usize;
                each = tap.tokens(&self.vision.tower, side).unwrap_or(0);
                ImageFeed::Pixels(self.vision.preprocess.clone())
            }
        } else if !vision_still {
            if recipe.image_head.standardize_input {
                return Err(learning_with("image_head.standardize_input", "vision").into());
            }
            if corpus.has_classes() {
                return Err(learning_with("data.sources.kind = \"classifier\"", "vision").into());
            }
            self.pictures_that_learn(&recipe, &features, corpus, progress)?
        } else {
            let mut table = features.images(&self.vision, corpus, recipe.data.class_rows, progress)?;
            if recipe.image_head.standardize_input {
                let statistics = Standardize::fit(&of_pictures(corpus, &table), table.dim);
                statistics.apply(&mut table.values);
                self.standardize_image = Some(statistics);
            }
            ImageFeed::Features(table)
        };
        let mut queries = None;
        let texts = if let Some(dialogue) = &needs.dialogue {
            let each = towers.image_head.connected(each);
            TextFeed::Dialogues(features.dialogues(&self.text, dialogue, corpus, each, progress)?)
        } else if let (Some(needs), Some(trunk)) = (&needs.trunk, &self.trunk) {
            let tokens = features.tokens_up_to(trunk, &corpus.texts, needs.max_tokens)?;
            TextFeed::Tokens(tokens, trunk.pooling)
        } else if !text_still {
            if recipe.text_head.standardize_input {
                return Err(learning_with("text_head.standardize_input", "text").into());
            }
            if let Some(instruction) = &needs.queries {
                queries = Some(features.tokens(&self.text, &corpus.texts, Some(instruction))?);
            }
            TextFeed::Tokens(features.tokens(&self.text, &corpus.texts, None)?, self.text.pooling)
        } else {
            let mut table = features.texts(&self.text, &corpus.texts, progress)?;
            if recipe.text_head.standardize_input {
                let statistics = Standardize::fit(&table.values, table.dim);
                statistics.apply(&mut table.values);
                self.standardize_text = Some(statistics);
            }
            TextFeed::Features(table)
        };
        if teacher_images.is_some() && corpus.rows.len() != readable {
            return Err(TrainError::Data {
                path: "data.sources".into(),
                message: "has pictures that the teacher can read and the tower that learns cannot; take them out"
                    .to_owned(),
            });
        }
        match (needs.teacher, &self.teacher_origin) {
            (Some(TeacherRows::Texts), Some(origin)) => {
                let teacher = Model::open(&origin.path, &TextOptions::default())?;
                teacher_texts = Some(features.teacher_texts(&teacher, &corpus.texts, progress)?);
            }
            // a tower that learns is put in place only when the stage is over
            (Some(TeacherRows::FormerSelf), _) => {
                let [image_head, text_head] = &self.former;
                let images = features.images(&self.vision, corpus, recipe.data.class_rows, progress)?;
                teacher_images = Some(through(image_head, &images));
                teacher_texts = Some(through(
                    text_head,
                    &features.texts(&self.text, &corpus.texts, progress)?,
                ));
            }
            _ => {}
        }
        let reference = self.reference(stage, &features, progress)?.map(Box::new);
        Ok(Feed {
            rows: corpus.rows.clone(),
            draw: draw(&recipe, corpus),
            needs,
            images,
            texts,
            queries,
            teacher_images,
            teacher_tokens,
            teacher_texts,
            augment: recipe.data.augment,
            reference,
            told: BTreeSet::new(),
            ahead: Ahead::default(),
        })
    }
}

pub(super) fn learning_with(key: &'static str, tower: &str) -> RecipeError {
    RecipeError::Value {
        key,
        message: format!("features change while the {tower} tower learns; freeze it, or take this out"),
    }
}

/// Refuses rows that are texts alone.
pub(super) fn with_pictures(corpus: &Corpus) -> Result<(), TrainError> {
    match corpus.without_picture() {
        None => Ok(()),
        Some(row) => Err(TrainError::Data {
            path: row.key.clone().into(),
            message: "is texts alone, and this stage learns from pictures; give it data of its own ([stage.NAME.data])"
                .to_owned(),
        }),
    }
}
