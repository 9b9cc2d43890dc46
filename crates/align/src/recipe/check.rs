//! Values that no run can work with.

use super::{HeadKind, HeadSpec, LossKind, NewFamily, NewVision, Recipe, RecipeError, SourceKind, SourceSpec};
use crate::methods;

impl Recipe {
    /// Checks ranges and contradictions; [`Recipe::load`] has done so.
    ///
    /// # Errors
    /// [`RecipeError::Value`] with the key and what to do.
    pub fn check(&self) -> Result<(), RecipeError> {
        let stages = methods::find(&self.method)?.stages;
        match &self.vision.new {
            None => need(!self.vision.model.is_empty(), "vision.model", || {
                "which vision tower? Write the folder or file of its weights, or the sizes of a new one as [vision.new]"
                    .to_owned()
            })?,
            Some(new) => {
                need(self.vision.model.is_empty(), "vision.model", || {
                    "[vision.new] is a tower of its own; take one of the two away".to_owned()
                })?;
                check_new(new)?;
            }
        }
        if let Some(codes) = &self.vision.codes {
            need(!codes.model.is_empty(), "vision.codes.model", || {
                "whose codes? Write the folder that a run of recipes/vq.toml has left, or LlamaGen's file".to_owned()
            })?;
            let new = self.vision.new.as_ref();
            need(
                new.is_none_or(|new| new.family == NewFamily::Siglip),
                "vision.new.family",
                || "a token encoder has no class token; set it to siglip".to_owned(),
            )?;
        }
        within("vision.patch_dropout", self.vision.patch_dropout, 0.0, 0.99)?;
        let leaves_out = self.vision.patch_dropout > 0.0;
        need(
            !leaves_out || self.vision.codes.is_none(),
            "vision.patch_dropout",
            || "the tower reads codes, each of which means what those before it make of it; set it to 0".to_owned(),
        )?;
        need(!self.text.model.is_empty(), "text.model", || {
            "which text tower? Write the folder or file of its weights".to_owned()
        })?;
        let prompt = self.text.prompt.as_deref();
        need(prompt.is_none_or(|p| p.contains("{}")), "text.prompt", || {
            "it has no {}, where the text goes".to_owned()
        })?;
        need(self.text.facets.iter().all(|f| f.contains("{}")), "text.facets", || {
            "one of them has no {}, where the caption goes".to_owned()
        })?;
        need(prompt.is_none() || self.text.facets.is_empty(), "text.prompt", || {
            "text.facets are prompts already; take one of the two away".to_owned()
        })?;
        within("embed_dim", self.embed_dim as f64, 1.0, 16_384.0)?;
        head(&self.image_head, "image_head")?;
        head(&self.text_head, "text_head")?;
        if let Some(name) = self.stage.keys().find(|name| !stages.contains(&name.as_str())) {
            let known = stages.join(", ");
            return Err(RecipeError::Value {
                key: "stage",
                message: format!("{} has no stage {name:?} (it has: {known})", self.method),
            });
        }
        need(
            self.compute.micro_batch == 0 || !self.needs_whole_batch(),
            "compute.micro_batch",
            || "a head with batch_norm needs the whole batch at once; set it to 0".to_owned(),
        )?;
        self.compute.check()?;
        need(!self.running().is_empty(), "stage", || {
            "all stages are left out; take one `skip` away".to_owned()
        })?;
        for name in self.running() {
            self.of_stage(name).check_stage()?;
        }
        need(self.caption.scale > 0.0, "caption.scale", || {
            "must be greater than zero".to_owned()
        })?;
        self.chat.check()?;
        self.check_qformer()?;
        self.check_flamingo()?;
        self.check_consolidation()?;
        self.check_toklip()?;
        self.check_unified()?;
        within("run.checkpoint_every", self.run.checkpoint_every as f64, 1.0, 1e12)?;
        let explode = self.run.explode;
        need(explode == 0.0 || (1.0..=1e9).contains(&explode), "run.explode", || {
            format!("{explode} times the usual loss is no explosion; write 1 or more, or 0 to switch the guard off")
        })?;
        within("run.keep", self.run.keep as f64, 1.0, 1e6)
    }

    fn check_consolidation(&self) -> Result<(), RecipeError> {
        let (held, merge) = (&self.consolidate, &self.merge);
        within("consolidate.weight", f64::from(held.weight), 0.0, 1e6)?;
        within("consolidate.temperature", f64::from(held.temperature), 1e-3, 1e3)?;
        within("merge.keep", f64::from(merge.keep), 0.0, 1.0)?;
        let one_stage = |key, none| {
            need(none || self.running().len() == 1, key, || {
                "only runs of one stage can keep a part of what they have learnt; take it out, or skip the other stages"
                    .to_owned()
            })
        };
        one_stage("merge.keep", merge.keep == 1.0)?;
        one_stage("merge.average_every", merge.average_every == 0)?;
        need(
            merge.average_every == 0 || self.lora.rank == 0,
            "merge.average_every",
            || "the average of adapters is not that of what they add; set it to 0, or lora.rank to 0".to_owned(),
        )?;
        self.check_elastic()?;
        self.check_reference()?;
        let consolidates = self.method == "cclip" && held.weight > 0.0;
        need(!consolidates || self.data.augment.is_none(), "data.augment", || {
            "what the model made of a picture before is computed once, of the picture as it is; take [data.augment] out, or set \
             consolidate.weight to 0"
                .to_owned()
        })
    }

    fn check_qformer(&self) -> Result<(), RecipeError> {
        let there = self.image_head.kind == HeadKind::QFormer;
        need(there || self.method != "blip2", "image_head.kind", || {
            "the connector of blip2 is a Q-Former; leave it out, or take the method llava".to_owned()
        })?;
        if !there {
            return Ok(());
        }
        need(
            matches!(self.method.as_str(), "blip2" | "llava"),
            "image_head.kind",
            || {
                "a Q-Former makes rows for a language model, not one vector of a picture; take the method blip2 or llava, or another head".to_owned()
            },
        )?;
        need(
            self.method != "blip2" || self.running().contains(&"generate"),
            "stage.generate.skip",
            || "a run ends with a model that talks; skip the stage represent, or none".to_owned(),
        )?;
        self.qformer.check()
    }

    fn check_flamingo(&self) -> Result<(), RecipeError> {
        let there = self.image_head.kind == HeadKind::Flamingo;
        need(there == (self.method == "flamingo"), "image_head.kind", || {
            "the connector flamingo and the method flamingo belong together; name both, or none".to_owned()
        })?;
        self.flamingo.check()
    }

    fn check_elastic(&self) -> Result<(), RecipeError> {
        let elastic = &self.elastic;
        within("elastic.weight", f64::from(elastic.weight), 0.0, 1e12)?;
        within("elastic.batches", elastic.batches as f64, 1.0, 1e9)?;
        need(self.method != "ewc" || self.lora.rank == 0, "lora.rank", || {
            "adapters begin anew with each task, so that there is nothing about them to hold on to; set it to 0"
                .to_owned()
        })
    }

    fn check_reference(&self) -> Result<(), RecipeError> {
        let reference = &self.reference;
        within("reference.weight", f64::from(reference.weight), 0.0, 1e6)?;
        within("reference.temperature", f64::from(reference.temperature), 1e-3, 1e3)?;
        within("reference.batch", reference.batch as f64, 0.0, 1_048_576.0)?;
        check_sources(&reference.sources)?;
        let standardizes = self.image_head.standardize_input || self.text_head.standardize_input;
        need(
            !self.has_reference() || !standardizes,
            "image_head.standardize_input",
            || "reference pictures pass through heads as a teacher's do; set it to false in both heads".to_owned(),
        )
    }

    /// Whether what a head makes of a sample depends on the others.
    fn needs_whole_batch(&self) -> bool {
        self.image_head.batch_norm || self.text_head.batch_norm
    }

    /// Checks that a batch can be split over processes.
    pub(crate) fn check_ranks(&self, ranks: usize) -> Result<(), RecipeError> {
        need(!self.has_reference() || ranks <= self.data.batch, "data.batch", || {
            format!(
                "{ranks} processes share reference pictures as they share those of the task; set it to {ranks} at least"
            )
        })?;
        need(ranks == 1 || !self.needs_whole_batch(), "image_head.batch_norm", || {
            format!(
                "a head with batch_norm needs the whole batch at once, which {ranks} processes do not have; set it to false in both \
                 heads, or start one process"
            )
        })
    }

    fn check_stage(&self) -> Result<(), RecipeError> {
        self.check_loss()?;
        self.check_length()?;
        self.check_data()?;
        let (lora, distill) = (&self.lora, &self.distill);
        within("lora.rank", lora.rank as f64, 0.0, 4096.0)?;
        within("lora.alpha", f64::from(lora.alpha), 1e-6, 1e6)?;
        within("lora.dropout", f64::from(lora.dropout), 0.0, 0.99)?;
        within("distill.ema", f64::from(distill.ema), 0.0, 1.0)?;
        within("distill.lambda", f64::from(distill.lambda), 0.0, 1e6)?;
        within("distill.instance", f64::from(distill.instance), 0.0, 1e6)?;
        within("distill.structure", f64::from(distill.structure), 0.0, 1e6)
    }

    fn check_loss(&self) -> Result<(), RecipeError> {
        let (loss, optimizer) = (&self.loss, &self.optimizer);
        within("loss.scale_init", f64::from(loss.scale_init), 1e-3, 1e4)?;
        if let Some(max) = loss.scale_max {
            within("loss.scale_max", f64::from(max), f64::from(loss.scale_init), 1e4)?;
        }
        within("loss.bias_init", f64::from(loss.bias_init), -1e4, 1e4)?;
        within("loss.captions", loss.captions as f64, 1.0, 64.0)?;
        within("loss.negatives", loss.negatives as f64, 0.0, 64.0)?;
        within("loss.smoothing", f64::from(loss.smoothing), 0.0, 0.99)?;
        need(
            loss.smoothing == 0.0 || loss.kind == LossKind::Infonce,
            "loss.smoothing",
            || "only targets of a softmax can be smoothed; set it to 0, or loss.kind to infonce".to_owned(),
        )?;
        let one = loss.kind != LossKind::Cosine || loss.captions == 1;
        need(one, "loss.captions", || {
            "the cosine loss compares a picture with one text; set it to 1".to_owned()
        })?;
        within("optimizer.lr", optimizer.lr, 1e-12, 10.0)?;
        within("optimizer.weight_decay", optimizer.weight_decay, 0.0, 1e4)?;
        for beta in optimizer.betas {
            within("optimizer.betas", f64::from(beta), 0.0, 0.999_999)?;
        }
        within("optimizer.eps", f64::from(optimizer.eps), 1e-30, 1.0)?;
        if let Some(norm) = optimizer.clip_norm {
            within("optimizer.clip_norm", norm, 1e-9, 1e9)?;
        }
        for decay in optimizer.layer_decay.values() {
            within("optimizer.layer_decay", *decay, 1e-6, 1.0)?;
        }
        for rule in &self.freeze {
            within("freeze.lr", rule.lr, 0.0, 1e4)?;
            within("freeze.weight_decay", rule.weight_decay.unwrap_or(0.0), 0.0, 1e4)?;
        }
        Ok(())
    }

    fn check_length(&self) -> Result<(), RecipeError> {
        let schedule = &self.schedule;
        within("schedule.warmup", schedule.warmup, 0.0, 1e12)?;
        within("schedule.cooldown", schedule.cooldown, 0.0, 1e12)?;
        match (schedule.steps, schedule.epochs) {
            (Some(steps), _) => within("schedule.steps", steps as f64, 1.0, 1e12),
            (None, Some(epochs)) => within("schedule.epochs", epochs, 1e-6, 1e9),
            (None, None) => need(false, "schedule.steps", || {
                "how long is the run? Write steps or epochs".to_owned()
            }),
        }
    }

    fn check_data(&self) -> Result<(), RecipeError> {
        within("data.batch", self.data.batch as f64, 2.0, 1_048_576.0)?;
        within("data.accumulate", self.data.accumulate as f64, 1.0, 65_536.0)?;
        need(!self.data.sources.is_empty(), "data.sources", || {
            "nothing to learn from; add a [[data.sources]] with a path".to_owned()
        })?;
        check_sources(&self.data.sources)
    }
}

/// Of data that a stage or a reference reads.
fn check_sources(sources: &[SourceSpec]) -> Result<(), RecipeError> {
    for source in sources {
        need(!source.path.is_empty(), "data.sources.path", || {
            "a source has no path".to_owned()
        })?;
        within("data.sources.weight", source.weight, 1e-6, 1e6)?;
        within("data.sources.holdout", source.holdout, 0.0, 1e12)?;
        within("data.sources.take", source.take, 0.0, 1e12)?;
        need(
            source.test.is_empty() || source.holdout == 0.0,
            "data.sources.test",
            || "the source holds out rows of its own already; set holdout to 0, or take test out".to_owned(),
        )?;
        for template in &source.templates {
            need(template.contains("{}"), "data.sources.templates", || {
                format!("{template:?} has no {{}}, where the caption goes")
            })?;
        }
        let classes = source.kind == SourceKind::Classifier;
        need(
            !classes || (source.holdout == 0.0 && source.test.is_empty()),
            "data.sources.holdout",
            || "a classifier's rows are not pictures; hold out captions instead".to_owned(),
        )?;
        need(!classes || source.take == 0.0, "data.sources.take", || {
            "a classifier's rows are taken all; set it to 0".to_owned()
        })?;
    }
    Ok(())
}

fn check_new(new: &NewVision) -> Result<(), RecipeError> {
    within("vision.new.size", new.size as f64, 1.0, 4096.0)?;
    within("vision.new.patch", new.patch as f64, 1.0, new.size as f64)?;
    within("vision.new.width", new.width as f64, 1.0, 16_384.0)?;
    within("vision.new.layers", new.layers as f64, 1.0, 256.0)?;
    within("vision.new.heads", new.heads as f64, 1.0, new.width as f64)?;
    need(new.width.is_multiple_of(new.heads), "vision.new.heads", || {
        format!("{} do not share a width of {} evenly", new.heads, new.width)
    })
}

fn head(head: &HeadSpec, key: &'static str) -> Result<(), RecipeError> {
    within(key, head.blocks as f64, 1.0, 64.0).map_err(|e| inside(e, "blocks"))?;
    within(key, head.layers as f64, 1.0, 64.0).map_err(|e| inside(e, "layers"))?;
    let mlp = matches!(
        head.kind,
        HeadKind::Mlp | HeadKind::Patches | HeadKind::QFormer | HeadKind::Flamingo
    );
    within(key, head.ratio as f64, f64::from(u8::from(!mlp)), 64.0).map_err(|e| inside(e, "ratio"))?;
    within(key, f64::from(head.dropout), 0.0, 0.99).map_err(|e| inside(e, "dropout"))?;
    within(key, f64::from(head.input_dropout), 0.0, 0.99).map_err(|e| inside(e, "input_dropout"))?;
    within(key, f64::from(head.noise), 0.0, 100.0).map_err(|e| inside(e, "noise"))
}

fn inside(error: RecipeError, field: &str) -> RecipeError {
    match error {
        RecipeError::Value { key, message } => RecipeError::Value {
            key,
            message: format!("{field}: {message}"),
        },
        other => other,
    }
}

pub(super) fn need(holds: bool, key: &'static str, message: impl FnOnce() -> String) -> Result<(), RecipeError> {
    if holds {
        Ok(())
    } else {
        Err(RecipeError::Value {
            key,
            message: message(),
        })
    }
}

pub(super) fn within(key: &'static str, value: f64, low: f64, high: f64) -> Result<(), RecipeError> {
    need((low..=high).contains(&value), key, || {
        format!("{value} is outside {low} to {high}")
    })
}
