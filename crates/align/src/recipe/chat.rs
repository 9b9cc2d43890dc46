//! `[chat]`: how a language model learns to talk about pictures (LLaVA).

use bifocal_models::chat::Style;
use bifocal_models::connector::{Select, Tap};
use serde::{Deserialize, Serialize};

use super::RecipeError;

/// `[chat]`. The connector itself is `[image_head]`, over each patch of a picture; its width, `embed_dim`, is that of the language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatSpec {
    /// How dialogues of the stage `tune` are written: `chatml`, `v1`, `llava-v1`, `gemma`, `plain`. The stage `align` has no questions: `plain` always.
    pub template: Style,
    /// What the model is told before each dialogue; without it, what the template has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What is asked where the data are captions, in the stage `tune`; captions take turns with them.
    pub questions: Vec<String>,
    /// Which layer of the vision tower the connector reads, as transformers numbers `hidden_states`, from the end when negative; −2 in LLaVA.
    pub layer: i64,
    /// Which of its tokens: `patch` or `cls_patch`.
    pub select: Select,
    /// Whether pictures get margins that make them squares first (LLaVA 1.5); else they are cut as the vision tower has it.
    pub pad: bool,
    /// Whether what a frozen vision tower makes of the pictures' patches is kept in `run.cache`, which takes 4 bytes a value: 250 KB a picture of
    /// EfficientNet-Lite0, 2.4 MB of ViT-L/14 at 336. Otherwise pictures pass through it each time.
    pub cache: bool,
    /// Longer dialogues are cut to so many tokens, the picture's counted.
    pub max_tokens: usize,
}

impl Default for ChatSpec {
    fn default() -> Self {
        Self {
            template: Style::ChatMl,
            system: None,
            questions: vec!["Describe this picture in one sentence.".to_owned()],
            layer: Tap::default().layer,
            select: Select::Patch,
            pad: true,
            cache: true,
            max_tokens: 2048,
        }
    }
}

impl ChatSpec {
    /// What the connector reads.
    pub fn tap(&self) -> Tap {
        Tap {
            layer: self.layer,
            select: self.select,
        }
    }

    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let fail = |key, message: String| Err(RecipeError::Value { key, message });
        if self.max_tokens < 2 {
            return fail(
                "chat.max_tokens",
                format!("{} leave no room for an answer; set it higher", self.max_tokens),
            );
        }
        if self.questions.iter().all(|question| question.trim().is_empty()) {
            return fail(
                "chat.questions",
                "nothing is asked; write a question at least".to_owned(),
            );
        }
        Ok(())
    }
}
