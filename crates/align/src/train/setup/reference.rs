//! Pictures of no task, with what a teacher makes of them (`[reference]` of a recipe).

use std::collections::BTreeSet;
use std::path::Path;

use bifocal_models::adapter::Head;
use bifocal_models::bundle::{open_text_side, open_vision_side};
use bifocal_models::open::{TextEncoder, TextOptions, VisionEncoder};

use super::feed::{learning_with, with_pictures};
use super::{Setup, through};
use crate::methods::BatchNeeds;
use crate::random::{REFERENCE, mix};
use crate::recipe::RecipeError;
use crate::train::ahead::Ahead;
use crate::train::draw::Draw;
use crate::train::features::Features;
use crate::train::feed::{Feed, ImageFeed, TextFeed};
use crate::train::{Progress, TrainError};

/// A model whose rows are kept.
struct Teacher<'a> {
    vision: &'a VisionEncoder,
    text: &'a TextEncoder,
    /// Those of a model that begins with its towers' own embeddings are not there.
    heads: [Option<&'a Head>; 2],
    prompt: Option<&'a str>,
}

impl Setup {
    /// The reference of a stage, if it has one: pictures as the stage's towers read them, what the teacher makes of them, and as texts what it makes of
    /// those.
    pub(super) fn reference(
        &self,
        stage: usize,
        features: &Features<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Option<Feed>, TrainError> {
        let prepared = &self.stages[stage];
        let (recipe, Some(which)) = (&prepared.recipe, prepared.reference) else {
            return Ok(None);
        };
        let named = match &self.reference_origin {
            None => None,
            Some(origin) => {
                let options = TextOptions::default();
                Some((open_vision_side(&origin.path)?, open_text_side(&origin.path, &options)?))
            }
        };
        let teacher = match &named {
            None => Teacher {
                vision: &self.vision,
                text: &self.text,
                heads: self.former.each_ref().map(Some),
                prompt: self.prompt.as_deref(),
            },
            Some((vision, text)) => Teacher {
                vision: &vision.encoder,
                text: &text.encoder,
                heads: [&vision.head, &text.head].map(|head| head.as_ref().map(|(head, _)| head)),
                prompt: text.prompt.as_deref(),
            },
        };
        teacher.check(recipe.embed_dim)?;
        let corpus = &mut self.corpora[which].clone();
        with_pictures(corpus)?;
        let still = self.stands_still("vision.", stage);
        if corpus.has_classes() && !still {
            return Err(learning_with("reference.sources.kind = \"classifier\"", "vision").into());
        }
        let rows = recipe.data.class_rows;
        let images = match still {
            true => ImageFeed::Features(features.images(&self.vision, corpus, rows, progress)?),
            false => ImageFeed::Pixels(self.vision.preprocess.clone()),
        };
        let readable = corpus.rows.len();
        let seen = features.images(teacher.vision, corpus, rows, progress)?;
        if corpus.rows.is_empty() || (still && corpus.rows.len() < readable) {
            return Err(TrainError::Data {
                path: "reference.sources".into(),
                message: "has pictures that the teacher cannot read, or no others; name other data".to_owned(),
            });
        }
        let mut as_teacher = Features::new(
            Path::new(&recipe.run.cache),
            teacher.prompt,
            recipe.compute.precision,
            features.ranks,
        );
        as_teacher.made_up = features.made_up;
        let texts = as_teacher.texts(teacher.text, &corpus.texts, progress)?;
        let [image_head, text_head] = teacher.heads;
        let led = |head: Option<&Head>, rows| match head {
            Some(head) => through(head, &rows),
            None => rows,
        };
        let pictures = recipe.reference.pictures(&recipe.data);
        Ok(Some(Feed {
            rows: corpus.rows.clone(),
            draw: Draw::new(mix(recipe.seed, REFERENCE, 0), pictures, corpus.shares.clone()),
            needs: BatchNeeds::pictures(1),
            images,
            texts: TextFeed::Features(led(text_head, texts)),
            queries: None,
            teacher_images: Some(led(image_head, seen)),
            teacher_tokens: None,
            teacher_texts: None,
            augment: None,
            reference: None,
            told: BTreeSet::new(),
            ahead: Ahead::default(),
        }))
    }
}

impl Teacher<'_> {
    /// Whether its rows can be compared with those of the model that learns.
    fn check(&self, embed_dim: usize) -> Result<(), TrainError> {
        let refuse = |message: String| {
            Err(TrainError::Recipe(RecipeError::Value {
                key: "reference.teacher",
                message,
            }))
        };
        let [image_head, text_head] = self.heads;
        if image_head.is_some_and(Head::reads_patches) {
            return refuse(
                "its head reads patches, and rows of pictures are kept; name a model with another head".to_owned(),
            );
        }
        let widths = [
            image_head.map_or_else(|| self.vision.tower.dim(), Head::dim),
            text_head.map_or_else(|| self.text.tower.dim(), Head::dim),
        ];
        match widths.iter().find(|&&width| width != embed_dim) {
            None => Ok(()),
            Some(width) => refuse(format!(
                "it embeds into {width} values and the model that learns into {embed_dim}; name a model of the same width"
            )),
        }
    }
}
