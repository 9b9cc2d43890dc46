//! From the towers that a run ends with to its bundle.

use std::path::Path;

use bifocal_models::bundle::{self, ChatPart, Manifest, Parts, SaveTower};
use bifocal_models::towers::Towers;
use bifocal_nn::lora::{self, Fold};
use bifocal_nn::{Module, ema};

use super::{Origin, Setup};
use crate::recipe::{MergeSpec, Recipe};
use crate::train::TrainError;

impl Setup {
    /// The towers as the bundle has them: without what was there for training alone, and with as much of what was learnt as the recipe keeps.
    pub fn finished(&self, recipe: &Recipe, towers: Towers) -> Towers {
        // what a stage does otherwise for some of its steps has an end, also where they were few
        let last = self.stages.last().map(|last| &last.stage.objective);
        let mut towers = last
            .into_iter()
            .fold(towers, |towers, objective| objective.before_step(towers, 1.0));
        towers.teacher = None;
        towers.projector = None;
        towers.vision = towers
            .vision
            .map(|tower| merged(tower, &self.vision.tower, &recipe.merge));
        towers.text = towers.text.map(|tower| merged(tower, &self.text.tower, &recipe.merge));
        // a head that began with this run has no former self
        let [image_head, text_head] = &self.former;
        if recipe.image_head.pretrained {
            towers.image_head = merged(towers.image_head, image_head, &recipe.merge);
        }
        if recipe.text_head.pretrained {
            towers.text_head = merged(towers.text_head, text_head, &recipe.merge);
        }
        towers
    }

    /// Writes the bundle.
    pub fn save(&self, recipe: &Recipe, dir: &Path) -> Result<Manifest, TrainError> {
        let Some(towers) = &self.moving else {
            unreachable!("the last trainer has given the towers back");
        };
        let towers = self.finished(recipe, towers.clone());
        let tower = |origin: &Origin, fingerprint: &str, trained: bool| SaveTower {
            name: origin.name.clone(),
            path: origin.path.clone(),
            fingerprint: fingerprint.to_owned(),
            trained,
        };
        let last = self.stages.len() - 1;
        let chat = self.stages[last]
            .stage
            .needs
            .dialogue
            .as_ref()
            .map(|dialogue| ChatPart {
                template: dialogue.template.clone(),
                tap: dialogue.tap,
                draws: dialogue.draws,
            });
        let parts = Parts {
            chat,
            method: &recipe.method,
            licence: None,
            vision: tower(
                &self.vision_origin,
                &self.vision.fingerprint,
                towers.vision.is_some() && self.has_learnt("vision.", last),
            ),
            text: tower(
                &self.text_origin,
                &self.text_fingerprint,
                towers.text.is_some() && self.has_learnt("text.", last),
            ),
            towers: &towers,
            pooling: self.text.pooling,
            attention: self.text.attention,
            layer: recipe.text.layer,
            prompt_name: recipe.text.prompt_name.clone(),
            prompt: recipe.text.facets.first().cloned().or_else(|| self.prompt.clone()),
            preprocess: self.vision.preprocess.clone(),
            image_head: self.image_head.clone(),
            text_head: self.text_head.clone(),
            standardize_image: self.standardize_image.as_ref(),
            standardize_text: self.standardize_text.as_ref(),
            copy_towers: recipe.run.copy_towers,
        };
        Ok(bundle::save(dir, &parts)?)
    }
}

/// A tower or head with what its adapters add in its weights: as much as the recipe keeps of that, and of what the other parameters have moved since
/// `former`.
fn merged<M: Module>(tower: M, former: &M, spec: &MergeSpec) -> M {
    let fold = Fold {
        coefficient: spec.keep,
        scaled: spec.scaled,
    };
    let moved = match spec.keep {
        1.0 => Ok(tower),
        keep => ema::update(tower, former, f64::from(keep), |name| {
            (!name.contains(".lora.")).then(|| name.to_owned())
        }),
    };
    match moved {
        Ok(tower) => lora::merge(tower, fold).0,
        Err(error) => unreachable!("a module that has learnt has the parameters it began with: {error}"),
    }
}
