//! `/v1/chat/completions`: OpenAI's route for language models, with a picture if the model sees.
//!
//! The field `model` is not looked at: there is one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bifocal_models::chat::{Answer as Said, Ended, Role, Speech, THAT_SEE, Turn};
use bifocal_models::generate::Sampling;
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::dialect;
use crate::app::Shared;
use crate::engine::prepare;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::json::Json;
use crate::payload::Payload;
use crate::picture;
use crate::talk::{Heard, Question};

/// Tokens of an answer unless told otherwise.
const TOKENS: usize = 256;

/// What is read of a request; other fields are passed over.
#[derive(Debug, Default, Deserialize)]
struct Request {
    messages: Option<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    /// The newer name.
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    seed: Option<i64>,
    n: Option<usize>,
    stop: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// What was said, as the model takes it.
#[derive(Debug, Default, PartialEq)]
struct Talk {
    system: Option<String>,
    before: Vec<Turn>,
    question: String,
    picture: Option<Picture>,
}

/// `POST /v1/chat/completions`.
pub(crate) async fn completions(State(app): State<Shared>, payload: Payload) -> Answer<Response> {
    // before the wait: that is part of what the client waits for
    let until = Instant::now() + app.limits.deadline * 9 / 10;
    let engine = app.engine()?;
    let request: Request = payload.json()?;
    drop(payload);
    let speech = request.speech(app.limits.answer_tokens)?;
    let messages = request.messages.unwrap_or_default();
    let talk = Talk::read(messages)?;
    let none = || ApiError::missing("this server has no language model: start it with --chat to talk");
    let talker = engine.talker.as_ref().ok_or_else(none)?;
    let mut pixels = None;
    if let Some(picture) = talk.picture {
        let fetched = picture::fetch_all(&app, Inputs::each(vec![Item::Picture(picture)])).await?;
        let Some(Item::Picture(picture)) = fetched.items.into_iter().next() else {
            return Err(ApiError::lost());
        };
        if !talker.sees() {
            let message =
                format!("the language model sees no pictures; leave the picture out, or serve one of {THAT_SEE}");
            return Err(ApiError::field("messages", message));
        }
        let (model, limits) = (talker.model(), app.limits.picture);
        let prepared = engine.aside(move || {
            let preprocess = model.eyes.as_ref().map(|eyes| &eyes.vision.preprocess);
            let preprocess = preprocess.ok_or_else(ApiError::lost)?;
            Ok(prepare(preprocess, &picture, &limits, "messages")?.0)
        });
        pixels = Some(prepared.await?);
    }
    let question = Question {
        system: talk.system,
        before: talk.before,
        text: talk.question,
        pixels,
        speech,
        until,
    };
    let mut heard = talker.ask(question).await?;
    let about = About::new(&talker.id);
    if request.stream != Some(true) {
        return Ok(Json(whole(&about, &mut heard).await?).into_response());
    }
    // an answer that fails before its first word is an error, not a stream
    let first = heard.recv().await.unwrap_or_else(|| Heard::Failed(ApiError::lost()));
    if let Heard::Failed(error) = first {
        return Err(error);
    }
    let events = Events {
        ready: Some(about.chunk(json!({ "role": "assistant", "content": "" }), None)),
        first: Some(first),
        usage: request.stream_options.and_then(|options| options.include_usage) == Some(true),
        about,
        heard,
        ended: false,
    };
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((head, Body::new(events)).into_response())
}

impl Request {
    fn speech(&self, most: usize) -> Answer<Speech> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::field("n", "one answer is written to a question; leave n out"));
        }
        if self.stop.as_ref().is_some_and(|stop| !stop.is_null()) {
            return Err(ApiError::field(
                "stop",
                "answers end where the model ends them; leave stop out",
            ));
        }
        let (field, asked) = match self.max_completion_tokens {
            Some(n) => ("max_completion_tokens", Some(n)),
            None => ("max_tokens", self.max_tokens),
        };
        let max_tokens = asked.unwrap_or(TOKENS.min(most));
        if !(1..=most).contains(&max_tokens) {
            return Err(ApiError::field(field, format!("{field} must be 1 to {most}")));
        }
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(0.0),
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
        };
        let field = if (0.0..=100.0).contains(&sampling.temperature) {
            "top_p"
        } else {
            "temperature"
        };
        sampling
            .check()
            .map_err(|error| ApiError::field(field, error.to_string()))?;
        Ok(Speech {
            sampling,
            max_tokens,
            seed: self.seed.unwrap_or(0).cast_unsigned(),
            ..Speech::default()
        })
    }
}

impl Talk {
    /// Turns of user and model, after what the model is told; several messages of one role in a row are one turn.
    fn read(messages: Value) -> Answer<Self> {
        let Value::Array(messages) = messages else {
            return Err(ApiError::field("messages", "it must be a list of messages"));
        };
        let (mut talk, mut turns) = (Self::default(), Vec::<Turn>::new());
        for (at, message) in messages.into_iter().enumerate() {
            let param = format!("messages[{at}]");
            let Value::Object(mut message) = message else {
                return Err(ApiError::field(
                    param,
                    "a message must be an object with role and content",
                ));
            };
            let items = match message.remove("content") {
                Some(Value::String(text)) => vec![Item::Text(text)],
                Some(Value::Array(parts)) => dialect::content(parts, &param)?,
                _ => return Err(ApiError::field(param, "content must be a text or a list of parts")),
            };
            let role = match message.get("role").and_then(Value::as_str) {
                Some("system" | "developer") => None,
                Some("user") => Some(Role::User),
                Some("assistant") => Some(Role::Assistant),
                _ => return Err(ApiError::field(param, "the role must be system, user or assistant")),
            };
            let mut texts = Vec::new();
            for item in items {
                match item {
                    Item::Text(text) => texts.push(text),
                    Item::Picture(picture) if role == Some(Role::User) && talk.picture.is_none() => {
                        talk.picture = Some(picture);
                    }
                    Item::Picture(_) => {
                        let message = "one picture may stand in a message of the user, and no other";
                        return Err(ApiError::field(param, message));
                    }
                    Item::Tokens(_) => return Err(ApiError::field(param, "a part must be a text or a picture")),
                }
            }
            let text = texts.join("\n");
            match (role, turns.last_mut()) {
                (None, _) => {
                    let system = talk.system.get_or_insert_default();
                    join(system, &text);
                }
                (Some(role), Some(last)) if last.role == role => join(&mut last.text, &text),
                (Some(role), _) => turns.push(Turn { role, text }),
            }
        }
        let first = turns.first().map(|turn| turn.role);
        match turns.pop() {
            Some(last) if last.role == Role::User && first == Some(Role::User) => {
                talk.before = turns;
                talk.question = last.text;
                Ok(talk)
            }
            _ => Err(ApiError::field(
                "messages",
                "the first and the last message besides system must be the user's",
            )),
        }
    }
}

fn join(to: &mut String, text: &str) {
    if !to.is_empty() && !text.is_empty() {
        to.push('\n');
    }
    to.push_str(text);
}

/// What all parts of an answer say.
struct About {
    id: String,
    created: u64,
    model: String,
}

impl About {
    fn new(model: &str) -> Self {
        static ANSWERS: AtomicU64 = AtomicU64::new(0);
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs());
        let number = ANSWERS.fetch_add(1, Ordering::Relaxed);
        Self {
            id: format!("chatcmpl-{created}-{number}"),
            created,
            model: model.to_owned(),
        }
    }

    fn value(&self, kind: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices })
    }

    fn chunk(&self, delta: Value, ended: Option<Ended>) -> Bytes {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": ended.map(reason) });
        event(&self.value("chat.completion.chunk", json!([choice])))
    }
}

fn event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn reason(ended: Ended) -> &'static str {
    match ended {
        Ended::Stop => "stop",
        Ended::Length => "length",
    }
}

fn usage(said: &Said) -> Value {
    json!({ "prompt_tokens": said.read, "completion_tokens": said.written, "total_tokens": said.read + said.written })
}

/// The answer when all of it is there.
async fn whole(about: &About, heard: &mut mpsc::Receiver<Heard>) -> Answer<Value> {
    loop {
        match heard.recv().await {
            Some(Heard::Piece(_)) => {}
            Some(Heard::End(said)) => {
                let message = json!({ "role": "assistant", "content": said.text });
                let choice = json!({ "index": 0, "message": message, "finish_reason": reason(said.ended) });
                let mut answer = about.value("chat.completion", json!([choice]));
                answer["usage"] = usage(&said);
                return Ok(answer);
            }
            Some(Heard::Failed(error)) => return Err(error),
            None => return Err(ApiError::lost()),
        }
    }
}

/// The answer as server-sent events, piece by piece.
struct Events {
    about: About,
    heard: mpsc::Receiver<Heard>,
    /// To be sent before anything else is heard.
    ready: Option<Bytes>,
    first: Option<Heard>,
    usage: bool,
    ended: bool,
}

impl Events {
    fn write(&mut self, heard: Option<Heard>) -> Bytes {
        let end = match heard {
            Some(Heard::Piece(text)) => return self.about.chunk(json!({ "content": text }), None),
            Some(Heard::End(said)) => {
                let mut end = self.about.chunk(json!({}), Some(said.ended)).to_vec();
                if self.usage {
                    let mut last = self.about.value("chat.completion.chunk", json!([]));
                    last["usage"] = usage(&said);
                    end.extend(event(&last));
                }
                end
            }
            Some(Heard::Failed(error)) => event(&error.value()).to_vec(),
            None => event(&ApiError::lost().value()).to_vec(),
        };
        self.ended = true;
        [&end[..], b"data: [DONE]\n\n"].concat().into()
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(bytes) = self.ready.take() {
            return frame(bytes);
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let heard = match self.first.take() {
            Some(heard) => Some(heard),
            None => match self.heard.poll_recv(cx) {
                Poll::Ready(heard) => heard,
                Poll::Pending => return Poll::Pending,
            },
        };
        let bytes = self.write(heard);
        frame(bytes)
    }
}
