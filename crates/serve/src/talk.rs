//! What a language model says: one answer at a time, those who ask wait in line.

use std::sync::Arc;
use std::time::Instant;

use bifocal_models::chat::{Answer as Said, ChatError, ChatModel, Conversation, Ended, Speech, Turn};
use tokio::sync::{Semaphore, mpsc};

use crate::error::{Answer, ApiError};

/// Pieces of an answer that wait for their client; the model waits when there are more.
const PIECES: usize = 64;

/// A language model and the line before it.
pub(crate) struct Talker {
    pub(crate) id: String,
    model: Arc<ChatModel>,
    /// Questions that may wait or be answered.
    line: Arc<Semaphore>,
    /// Who is answered.
    turn: Arc<Semaphore>,
}

/// What is asked.
pub(crate) struct Question {
    pub(crate) system: Option<String>,
    /// What was said before.
    pub(crate) before: Vec<Turn>,
    pub(crate) text: String,
    /// Of the picture that it is about, prepared for the model.
    pub(crate) pixels: Option<Vec<f32>>,
    pub(crate) speech: Speech,
    /// The answer ends then.
    pub(crate) until: Instant,
}

/// What is heard of an answer.
pub(crate) enum Heard {
    /// The next piece; never empty.
    Piece(String),
    /// All of it.
    End(Said),
    /// It has failed.
    Failed(ApiError),
}

impl Talker {
    pub(crate) fn new(model: ChatModel, id: String, talks: usize) -> Self {
        Self {
            id,
            model: Arc::new(model),
            line: Arc::new(Semaphore::new(talks)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether it sees pictures.
    pub(crate) fn sees(&self) -> bool {
        self.model.eyes.is_some()
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.model.fingerprint
    }

    /// Tokens that it reads and writes, at most.
    pub(crate) fn context(&self) -> usize {
        self.model.llm().map_or(0, |llm| llm.config().context)
    }

    /// For whoever prepares pictures on another thread.
    pub(crate) fn model(&self) -> Arc<ChatModel> {
        Arc::clone(&self.model)
    }

    /// Waits for its turn and begins the answer. Who drops what is given ends it.
    ///
    /// # Errors
    /// 429 when too many wait.
    pub(crate) async fn ask(&self, question: Question) -> Answer<mpsc::Receiver<Heard>> {
        let place = self.line.clone().try_acquire_owned();
        let place = place.map_err(|_| ApiError::full("talks", "too many questions wait for the language model"))?;
        // the semaphore is never closed
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| ApiError::lost())?;
        let (tell, heard) = mpsc::channel(PIECES);
        let model = self.model();
        tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            let end = match answer(&model, question, &tell) {
                Ok(said) => Heard::End(said),
                Err(error) => Heard::Failed(refusal(&error)),
            };
            // nobody hears it when the client is gone
            let _ = tell.blocking_send(end);
        });
        Ok(heard)
    }
}

fn answer(model: &ChatModel, question: Question, tell: &mpsc::Sender<Heard>) -> Result<Said, ChatError> {
    let talk = Conversation::new(model, question.pixels.as_deref(), question.system, question.speech)?;
    let (mut begun, mut late) = (false, false);
    let said = talk.after(question.before).ask(&question.text, |piece| {
        // what stands before the first word is no part of the answer
        let piece = if begun { piece } else { piece.trim_start() };
        begun |= !piece.is_empty();
        let heard = piece.is_empty() || tell.blocking_send(Heard::Piece(piece.to_owned())).is_ok();
        late = Instant::now() >= question.until;
        heard && !late
    })?;
    let ended = if late { Ended::Length } else { said.ended };
    Ok(Said { ended, ..said })
}

/// What the client can change; all else is the server's fault.
fn refusal(error: &ChatError) -> ApiError {
    match error {
        ChatError::TooLong { .. } | ChatError::Blind { .. } | ChatError::Template { .. } | ChatError::Generate(_) => {
            ApiError::field("messages", error.to_string())
        }
        // paths of the server are not the client's business
        _ => ApiError::lost(),
    }
}
