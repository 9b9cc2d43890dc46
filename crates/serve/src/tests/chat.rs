//! `/v1/chat/completions`, with a tiny LLaVA of random weights.

use bifocal_models::chat::ChatModel;
use serde_json::json;

use super::*;

const ROUTE: &str = "/v1/chat/completions";

/// A server that talks, with the LLaVA of the tests of `bifocal-models`; without its eyes it is a language model alone.
fn server(sees: bool, limits: Limits) -> Server {
    let server = Server::unloaded(limits, None);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/llava");
    let mut chat = ChatModel::open(&path).unwrap();
    chat.eyes = chat.eyes.filter(|_| sees);
    let loaded = Loaded {
        model: model(),
        path: model_path().to_owned(),
        id: "tiny".to_owned(),
        store: None,
        chat: Some((chat, "talker".to_owned())),
    };
    let engine = Engine::start(loaded, &server.app.limits, &server.app.metrics).unwrap();
    server.app.serve(engine);
    server
}

fn photo() -> String {
    data_uri(&std::fs::read(&photos(1)[0]).unwrap())
}

fn about(picture: &str) -> Value {
    json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": picture } }, { "type": "text", "text": "a cat" }] }])
}

/// The values of server-sent events; the last line must be `[DONE]`.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream");
    let text = std::str::from_utf8(&answer.body).unwrap();
    let mut all: Vec<&str> = text
        .split("\n\n")
        .map(|line| line.strip_prefix("data: ").unwrap_or(line))
        .collect();
    assert_eq!(all.pop(), Some(""));
    assert_eq!(all.pop(), Some("[DONE]"));
    all.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[test]
fn an_answer_is_the_same_as_a_whole_and_piece_by_piece() {
    run(async {
        let server = server(true, Limits::default());
        let mut body = json!({ "model": "any", "messages": about(&photo()), "max_tokens": 12 });
        let whole = server.post(ROUTE, &body).await.good();
        assert_eq!(
            (whole["object"].as_str(), whole["model"].as_str()),
            (Some("chat.completion"), Some("talker"))
        );
        let choice = &whole["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        let (read, written) = (
            whole["usage"]["prompt_tokens"].as_u64(),
            whole["usage"]["completion_tokens"].as_u64(),
        );
        // nine patches and the words
        assert!(read > Some(9) && (Some(1)..=Some(12)).contains(&written), "{whole}");
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        let events = events(&server.post(ROUTE, &body).await);
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let pieces: String = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(pieces.trim_end(), text);
        let [.., end, usage] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(end["choices"][0]["finish_reason"], choice["finish_reason"]);
        assert_eq!(usage["usage"], whole["usage"]);
        // the picture is looked at: without it less is read
        let blind = json!({ "messages": [{ "role": "user", "content": "a cat" }], "max_tokens": 12 });
        let blind = server.post(ROUTE, &blind).await.good();
        assert!(blind["usage"]["prompt_tokens"].as_u64() < read, "{blind}");
    });
}

#[test]
fn what_was_said_before_counts_and_seeds_repeat() {
    run(async {
        let server = server(true, Limits::default());
        let dialogue = json!([
            { "role": "user", "content": "a cat" },
            { "role": "assistant", "content": "the dog" },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "cat" }] },
        ]);
        let ask = async |body: Value| server.post(ROUTE, &body).await.good();
        let short = ask(json!({ "messages": [dialogue[0]], "max_tokens": 4 })).await;
        let long = ask(json!({ "messages": dialogue, "max_tokens": 4 })).await;
        assert!(long["usage"]["prompt_tokens"].as_u64() > short["usage"]["prompt_tokens"].as_u64());
        let drawn =
            json!({ "messages": dialogue, "max_tokens": 20, "temperature": 5, "top_p": 0.95, "top_k": 30, "seed": -3 });
        let (one, two) = (ask(drawn.clone()).await, ask(drawn).await);
        assert_eq!(one["choices"], two["choices"]);
    });
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    run(async {
        let server = server(true, Limits::default());
        let user = json!({ "role": "user", "content": "a" });
        let picture = json!({ "type": "image_url", "image_url": { "url": photo() } });
        let cases = [
            (json!({}), "messages"),
            (json!({ "messages": [] }), "messages"),
            (
                json!({ "messages": [{ "role": "assistant", "content": "a" }] }),
                "messages",
            ),
            (
                json!({ "messages": [user, { "role": "assistant", "content": "a" }] }),
                "messages",
            ),
            (
                json!({ "messages": [{ "role": "tool", "content": "a" }] }),
                "messages[0]",
            ),
            (json!({ "messages": [{ "role": "user" }] }), "messages[0]"),
            (
                json!({ "messages": [{ "role": "system", "content": [picture] }, user] }),
                "messages[0]",
            ),
            (
                json!({ "messages": [{ "role": "user", "content": [picture, picture] }] }),
                "messages[0]",
            ),
            (json!({ "messages": [user], "n": 2 }), "n"),
            (json!({ "messages": [user], "stop": ["\n"] }), "stop"),
            (json!({ "messages": [user], "max_tokens": 0 }), "max_tokens"),
            (
                json!({ "messages": [user], "max_completion_tokens": 4097 }),
                "max_completion_tokens",
            ),
            (json!({ "messages": [user], "temperature": -1 }), "temperature"),
            (json!({ "messages": [user], "top_p": 0 }), "top_p"),
            (
                json!({ "messages": [{ "role": "user", "content": "a cat ".repeat(5000) }] }),
                "messages",
            ),
            (json!({ "messages": about("data:image/png;base64,AAAA") }), "messages"),
        ];
        for (body, field) in cases {
            let answer = server.post(ROUTE, &body).await;
            let shown: String = body.to_string().chars().take(120).collect();
            assert!(matches!(answer.status.as_u16(), 415 | 422), "{shown}: {answer:?}");
            assert_eq!(answer.json()["error"]["param"], field, "{shown}");
        }
        // also when pieces are asked for: no stream has begun
        let long = json!({ "messages": [{ "role": "user", "content": "a cat ".repeat(5000) }], "stream": true });
        let message = server.post(ROUTE, &long).await.refused(422);
        assert!(message.contains("the model reads"), "{message}");
    });
}

#[test]
fn who_does_not_see_says_so_and_a_full_line_sends_away() {
    run(async {
        let blind = server(false, Limits::default());
        let message = blind
            .post(ROUTE, &json!({ "messages": about(&photo()) }))
            .await
            .refused(422);
        assert!(message.contains("sees no pictures"), "{message}");
        let silent = Server::new(Limits::default(), 0);
        let body = json!({ "messages": [{ "role": "user", "content": "a" }] });
        assert!(silent.post(ROUTE, &body).await.refused(404).contains("--chat"));
        let limits = Limits {
            talks: 0,
            ..Limits::default()
        };
        let full = server(true, limits);
        full.post(ROUTE, &body).await.refused(429);
    });
}

#[test]
fn an_answer_ends_at_the_deadline() {
    use std::time::{Duration, Instant};

    use bifocal_models::chat::{Ended, Speech};

    use crate::talk::{Heard, Question};

    run(async {
        let server = server(true, Limits::default());
        let talker = server.app.engine().unwrap().talker.as_ref().unwrap();
        let answer = async |until: Instant| {
            let question = Question {
                system: None,
                before: vec![],
                text: "a cat".to_owned(),
                pixels: None,
                speech: Speech::default(),
                until,
            };
            let mut heard = talker.ask(question).await.unwrap();
            loop {
                match heard.recv().await {
                    Some(Heard::Piece(_)) => {}
                    Some(Heard::End(said)) => return said,
                    _ => panic!("no end"),
                }
            }
        };
        let whole = answer(Instant::now() + Duration::from_secs(600)).await;
        let cut = answer(Instant::now()).await;
        assert!(cut.written < whole.written, "{cut:?} {whole:?}");
        assert_eq!(cut.ended, Ended::Length);
        assert!(whole.text.starts_with(&cut.text) && !cut.text.is_empty());
    });
}

#[test]
fn both_models_are_listed() {
    run(async {
        let server = server(true, Limits::default());
        let all = server.get("/v1/models").await.good();
        let ids: Vec<&str> = all["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        assert_eq!(ids, ["tiny", "talker"]);
        let talker = server.get("/v1/models/talker").await.good();
        assert_eq!(
            (talker["chat"].as_bool(), talker["modalities"].as_array().map(Vec::len)),
            (Some(true), Some(2))
        );
        server.get("/v1/models/other").await.refused(404);
    });
}
