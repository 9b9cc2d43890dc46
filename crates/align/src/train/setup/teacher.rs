//! What the teacher of a recipe makes of pictures, once (TokLIP).

use bifocal_models::adapter::Head;
use bifocal_models::bundle::{VisionSide, open_vision_side};
use bifocal_models::vision::{VisionTower, Vit};

use super::{Setup, through};
use crate::recipe::{HeadKind, Recipe, RecipeError};
use crate::train::corpus::Corpus;
use crate::train::features::Features;
use crate::train::feed::{ImageFeed, Table};
use crate::train::reading::Reading;
use crate::train::{Progress, TrainError};

/// The cache keeps codes as f32, in which whole numbers up to here are exact.
pub(in crate::train) const MOST_CODES: usize = 1 << 24;

/// Rows of each picture of a corpus.
pub(super) struct Seen {
    /// In the joint space.
    pub pictures: Table,
    /// Of all its tokens, one after the other.
    pub tokens: Option<Table>,
}

impl Setup {
    /// The teacher's rows of the pictures that it can read; the others leave the corpus. It has a preprocessing of its own.
    pub(super) fn seen_by_teacher(
        &self,
        recipe: &Recipe,
        tokens: bool,
        features: &Features<'_>,
        corpus: &mut Corpus,
        progress: &mut dyn Progress,
    ) -> Result<Option<Seen>, TrainError> {
        let Some(origin) = &self.teacher_origin else {
            return Ok(None);
        };
        let side = open_vision_side(&origin.path)?;
        self.check_teacher(&side, recipe, tokens)?;
        let seen = features.images(&side.encoder, corpus, recipe.data.class_rows, progress)?;
        let pictures = match &side.head {
            Some((head, _)) => through(head, &seen),
            None => seen,
        };
        let readable = corpus.rows.len();
        let tokens = match (tokens, &side.encoder.tower) {
            (true, VisionTower::Vit(tower)) => {
                let dim = tower.config().stack.width * tower.tokens_of_a_picture();
                Some(features.of_rows(&side.encoder, Reading::Tokens, dim, corpus, progress)?)
            }
            _ => None,
        };
        match corpus.rows.len() == readable {
            true => Ok(Some(Seen { pictures, tokens })),
            false => Err(TrainError::Data {
                path: "data.sources".into(),
                message: "pictures have become unreadable meanwhile; begin again".to_owned(),
            }),
        }
    }

    /// Pictures for a vision tower that learns: codes for one that reads them, computed once, unless pictures change from time to time.
    pub(super) fn pictures_that_learn(
        &self,
        recipe: &Recipe,
        features: &Features<'_>,
        corpus: &mut Corpus,
        progress: &mut dyn Progress,
    ) -> Result<ImageFeed, TrainError> {
        let tower = self.vision.tower.token_encoder();
        let exact = |tower: &&Vit| {
            tower
                .codec()
                .and_then(|codec| codec.codes())
                .is_some_and(|codes| codes <= MOST_CODES)
        };
        let changes = recipe.data.augment.is_some() || self.image_head.kind == HeadKind::Patches;
        match tower.filter(exact).filter(|_| !changes) {
            None => Ok(ImageFeed::Pixels(self.vision.preprocess.clone())),
            Some(tower) => {
                let each = tower.tokens_of_a_picture();
                let table = features.of_rows(&self.vision, Reading::Codes, each, corpus, progress)?;
                Ok(ImageFeed::Codes(table))
            }
        }
    }

    /// Whether its rows can be compared with those of the model that learns.
    fn check_teacher(&self, side: &VisionSide, recipe: &Recipe, tokens: bool) -> Result<(), TrainError> {
        let refuse = |key, message| Err(TrainError::Recipe(RecipeError::Value { key, message }));
        let head = side.head.as_ref().map(|(head, _)| head);
        if head.is_some_and(Head::reads_patches) {
            let message = "its head reads patches, and rows of pictures are kept; name a model with another head";
            return refuse("teacher.model", message.to_owned());
        }
        let (gives, learns) = (
            head.map_or_else(|| side.encoder.tower.dim(), Head::dim),
            recipe.embed_dim,
        );
        if gives != learns {
            let message = format!(
                "it embeds into {gives} values and the model that learns into {learns}; name one of the same width"
            );
            return refuse("teacher.model", message);
        }
        let sizes = |tower: &VisionTower| match tower {
            VisionTower::Vit(tower) => Some((tower.tokens_of_a_picture(), tower.config().stack.width)),
            _ => None,
        };
        let (theirs, own) = (sizes(&side.encoder.tower), sizes(&self.vision.tower));
        if tokens && (own.is_none() || theirs != own || self.vision.tower.token_encoder().is_none()) {
            let message = format!(
                "tokens are compared one by one, and the teacher's are {theirs:?} in number and width, those of the tower of codes {own:?}; \
                 set it to 0, or name a teacher of that size"
            );
            return refuse("toklip.tokens", message);
        }
        Ok(())
    }
}
