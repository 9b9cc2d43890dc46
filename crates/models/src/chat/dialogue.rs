//! What was said.

use serde_json::Value;

use super::ChatError;

/// How LLaVA's data writes the place of a picture in a text.
pub(super) const IMAGE: &str = "<image>";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// One of them speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// Turns of user and model, beginning with the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialogue {
    /// What the model is told before; `None`: what its template says.
    pub system: Option<String>,
    /// Whether it is about a picture, which comes before the first turn's text.
    pub image: bool,
    /// Taking turns.
    pub turns: Vec<Turn>,
}

impl Dialogue {
    /// A question and its answer.
    pub fn pair(image: bool, question: &str, answer: &str) -> Self {
        let turn = |role, text: &str| Turn {
            role,
            text: text.to_owned(),
        };
        Self {
            system: None,
            image,
            turns: vec![turn(Role::User, question), turn(Role::Assistant, answer)],
        }
    }

    /// Reads `conversations` of LLaVA's data: a list of `{"from": "human" or "gpt", "value": …}`. Turns of the model before the first of the user are left
    /// out, as LLaVA's code does it; `<image>` is taken out of texts, wherever it stands, and means that there is a picture.
    ///
    /// # Errors
    /// [`ChatError::Dialogue`] says what is wrong.
    pub fn from_json(value: &Value) -> Result<Self, ChatError> {
        let fail = |what: String| ChatError::Dialogue { what };
        let list = value
            .as_array()
            .ok_or_else(|| fail("a dialogue is no list".to_owned()))?;
        let mut dialogue = Self::default();
        for (i, turn) in list.iter().enumerate() {
            let field = |key: &str| {
                let text = turn.get(key).and_then(Value::as_str);
                text.ok_or_else(|| fail(format!("turn {i} has no text \"{key}\"")))
            };
            let role = match field("from")? {
                "human" | "user" => Role::User,
                "gpt" | "assistant" => Role::Assistant,
                other => return Err(fail(format!("turn {i} is from \"{other}\", neither human nor gpt"))),
            };
            if dialogue.turns.is_empty() && role == Role::Assistant {
                continue;
            }
            if dialogue.turns.last().is_some_and(|last| last.role == role) {
                return Err(fail(format!("turns {} and {i} are of the same speaker", i - 1)));
            }
            let text = field("value")?;
            dialogue.image |= text.contains(IMAGE);
            let text = match text.contains(IMAGE) {
                true => text.replace(IMAGE, "").trim().to_owned(),
                false => text.to_owned(),
            };
            dialogue.turns.push(Turn { role, text });
        }
        match dialogue.turns.len() {
            0 | 1 => Err(fail("a dialogue has no question with an answer".to_owned())),
            _ => Ok(dialogue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_picture_comes_first_wherever_it_stands() {
        let found = Dialogue::from_json(&json!([
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "What is this?\n<image>"},
            {"from": "gpt", "value": "A dog."},
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "At the sea."},
        ]))
        .unwrap();
        assert!(found.image);
        assert_eq!(found.turns[0].text, "What is this?");
        assert_eq!((found.turns.len(), found.turns[3].role), (4, Role::Assistant));
    }

    #[test]
    fn what_is_no_dialogue_is_refused() {
        for bad in [
            json!({}),
            json!([]),
            json!([{"from": "human", "value": "a"}]),
            json!([{"from": "human"}]),
            json!([{"from": "robot", "value": "a"}]),
            json!([{"from": "human", "value": "a"}, {"from": "user", "value": "b"}]),
            json!([{"from": "human", "value": 3}, {"from": "gpt", "value": "b"}]),
        ] {
            let error = Dialogue::from_json(&bad).unwrap_err().to_string();
            assert!(error.contains("human"), "{error}");
        }
    }
}
