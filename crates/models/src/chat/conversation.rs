//! One talk with a model.

use std::fmt;

use bifocal_nn::init::Rng;

use super::{ChatError, ChatModel, Dialogue, Role, Seen, Turn};
use crate::adapter::Head;
use crate::connector::flamingo::Looks;
use crate::generate::{Beams, Repeats, Sampling, TextStream, Writer};

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speech {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What is done about repetition.
    pub repeats: Repeats,
    /// Texts that grow side by side; 1: tokens are drawn one by one.
    pub beams: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Of what is drawn.
    pub seed: u64,
}

impl Default for Speech {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            repeats: Repeats::default(),
            beams: 1,
            max_tokens: 256,
            seed: 0,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it.
    Stop,
    /// As long as it may be, or the model's context is full.
    Length,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was said.
    pub text: String,
    /// Why it ended.
    pub ended: Ended,
    /// Rows that were read for it, of pictures too, and were not known from before.
    pub read: usize,
    /// Tokens that were written, with the one that ended it.
    pub written: usize,
}

/// A talk about a picture, or about none; the model keeps what it has read of it.
#[derive(Debug)]
pub struct Conversation<'a> {
    model: &'a ChatModel,
    dialogue: Dialogue,
    picture: Option<Seen>,
    writer: Writer<'a>,
    /// What the writer has read: tokens, and `None` for a picture's rows.
    known: Vec<Option<u32>>,
    rng: Drawn,
    speech: Speech,
}

/// What tokens are drawn with.
struct Drawn(Rng);

impl fmt::Debug for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Drawn")
    }
}

impl<'a> Conversation<'a> {
    /// Before the first word. `pixels` are those of the picture, prepared as the model's eyes want it.
    ///
    /// # Errors
    /// [`ChatError`] for a choice that cannot be, a model that does not see, and pixels of another size.
    pub fn new(
        model: &'a ChatModel,
        pixels: Option<&[f32]>,
        system: Option<String>,
        speech: Speech,
    ) -> Result<Self, ChatError> {
        speech.sampling.check()?;
        let picture = match (pixels, &model.eyes) {
            (None, _) => None,
            (Some(pixels), Some(eyes)) => Some(eyes.look(pixels)?),
            (Some(_), None) => {
                return Err(ChatError::Blind {
                    name: model.name.clone(),
                });
            }
        };
        let mut writer = Writer::new(model.llm()?)?;
        if let (Some(media), Some(Head::Flamingo(flamingo))) = (
            picture.as_ref().and_then(|picture| picture.media.clone()),
            model.eyes.as_ref().map(|eyes| &eyes.connector),
        ) {
            writer = writer.looking(Looks::new(flamingo, media, vec![None]));
        }
        Ok(Self {
            dialogue: Dialogue {
                system,
                image: picture.is_some(),
                turns: Vec::new(),
            },
            picture,
            writer,
            known: Vec::new(),
            rng: Drawn(Rng::new(speech.seed)),
            model,
            speech,
        })
    }

    /// After what was said before: turns of user and model, beginning with the user's.
    #[must_use]
    pub fn after(mut self, turns: Vec<Turn>) -> Self {
        self.dialogue.turns = turns;
        self
    }

    /// What was said so far.
    pub fn dialogue(&self) -> &Dialogue {
        &self.dialogue
    }

    /// Asks, and gives the answer piece by piece to `hear` as it is written; with several beams as a whole. `hear` may end it by `false`.
    ///
    /// # Errors
    /// [`ChatError`]; the question is then not part of the talk.
    pub fn ask(&mut self, question: &str, mut hear: impl FnMut(&str) -> bool) -> Result<Answer, ChatError> {
        self.dialogue.turns.push(Turn {
            role: Role::User,
            text: question.to_owned(),
        });
        match self.answer(&mut hear) {
            Ok(answer) => {
                self.dialogue.turns.push(Turn {
                    role: Role::Assistant,
                    text: answer.text.clone(),
                });
                Ok(answer)
            }
            Err(error) => {
                self.dialogue.turns.pop();
                Err(error)
            }
        }
    }

    fn answer(&mut self, hear: &mut dyn FnMut(&str) -> bool) -> Result<Answer, ChatError> {
        let read = self.listen()?;
        let model = self.model;
        let stops = model.template.stops(&model.text.tokenizer);
        let mut stream = TextStream::new(&model.text.tokenizer);
        let most = self.speech.max_tokens.min(self.writer.room());
        let mut answer = Answer {
            text: String::new(),
            ended: Ended::Length,
            read,
            written: 0,
        };
        let planned = match self.speech.beams {
            0 | 1 => None,
            beams => {
                let beams = Beams {
                    beams,
                    length_penalty: 1.0,
                    max_tokens: most,
                };
                Some(self.writer.write_beams(&beams, &self.speech.repeats, &stops)?)
            }
        };
        let mut planned = planned.map(Vec::into_iter);
        while answer.written < most {
            let id = match &mut planned {
                Some(ids) => match ids.next() {
                    Some(id) => id,
                    None => break,
                },
                None => self
                    .writer
                    .write(&self.speech.sampling, &self.speech.repeats, &mut self.rng.0)?,
            };
            answer.written += 1;
            self.known.push(Some(id));
            if stops.contains(&id) {
                answer.ended = Ended::Stop;
                break;
            }
            let piece = stream.push(id)?;
            let line = model.template.ends_with_line().then(|| piece.find('\n')).flatten();
            let piece = &piece[..line.unwrap_or(piece.len())];
            answer.text.push_str(piece);
            let go_on = piece.is_empty() || hear(piece);
            if line.is_some() || !go_on {
                answer.ended = Ended::Stop;
                break;
            }
        }
        answer.text = answer.text.trim().to_owned();
        Ok(answer)
    }

    /// Reads what is new of the dialogue; how many rows that was.
    fn listen(&mut self) -> Result<usize, ChatError> {
        let sequence = self.model.sequence(&self.dialogue)?;
        let picture = self.picture.as_ref().map_or(0, |seen| seen.rows.dims()[0]);
        let limit = self.model.llm()?.config().context;
        // the answer needs a place too
        if sequence.rows(picture) >= limit {
            return Err(ChatError::TooLong {
                rows: sequence.rows(picture),
                limit,
            });
        }
        let at = sequence.image.unwrap_or(sequence.ids.len());
        let tokens = |ids: &[u32]| ids.iter().copied().map(Some).collect::<Vec<_>>();
        let shown = if sequence.image.is_some() { picture } else { 0 };
        let rows = [
            tokens(&sequence.ids[..at]),
            vec![None; shown],
            tokens(&sequence.ids[at..]),
        ]
        .concat();
        let same = rows.iter().zip(&self.known).take_while(|(new, old)| new == old).count();
        // the last row is read anew, for what comes after it, and a picture as a whole
        let same = same.min(rows.len().saturating_sub(1));
        let same = if (at + 1..at + shown).contains(&same) { at } else { same };
        self.writer.rewind(same);
        self.writer.mark_at(sequence.image);
        self.known.truncate(same);
        if same < at {
            self.writer.read(&sequence.ids[same..at])?;
        }
        if same <= at
            && shown > 0
            && let Some(picture) = &self.picture
        {
            self.writer.read_rows(picture.rows.clone())?;
        }
        self.writer.read(&sequence.ids[at.max(same.saturating_sub(shown))..])?;
        let read = rows.len() - same;
        self.known = rows;
        Ok(read)
    }
}
