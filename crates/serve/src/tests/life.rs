//! Beginning, ending, keys, overload, clients that leave, panics, measures.

use std::time::Duration;

use axum::middleware::from_fn_with_state;
use axum::routing::get;
use serde_json::json;

use super::*;

#[test]
fn nothing_is_answered_before_the_model_is_there_but_health() {
    run(async {
        let server = Server::unloaded(Limits::default(), None);
        assert_eq!(server.get("/livez").await.status, StatusCode::OK);
        server.get("/readyz").await.refused(503);
        let early = server.post("/v1/embeddings", &json!({ "input": "a" })).await;
        early.refused(503);
        assert!(early.headers.contains_key(header::RETRY_AFTER));
        server.get("/v1/models").await.refused(503);
        let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
        assert!(metrics.contains("bifocal_model_loaded 0"));
        server.load(0);
        assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
        server.post("/v1/embeddings", &json!({ "input": "a" })).await.good();
        server.app.drain();
        server.get("/readyz").await.refused(503);
        assert_eq!(server.get("/livez").await.status, StatusCode::OK);
        // what comes while it ends is still answered, and told to go elsewhere
        let late = server.post("/v1/embeddings", &json!({ "input": "a" })).await;
        assert_eq!(
            (late.status.as_u16(), late.headers[header::CONNECTION].to_str().unwrap()),
            (200, "close")
        );
    });
}

#[test]
fn with_a_key_everything_but_health_and_the_page_asks_for_it() {
    run(async {
        let server = Server::unloaded(Limits::default(), Some("s3cret"));
        server.load(1);
        for path in ["/v1/models", "/v1/items", "/v1/map", "/metrics", "/openapi.json"] {
            let refused = server.get(path).await;
            assert!(refused.refused(401).contains("API key"), "{path}");
            assert!(refused.headers.contains_key(header::WWW_AUTHENTICATE));
            let request = Request::get(path)
                .header(header::AUTHORIZATION, "Bearer s3cret")
                .body(Body::empty())
                .unwrap();
            assert_eq!(server.send(request).await.status, StatusCode::OK, "{path}");
        }
        server
            .post("/v1/embeddings", &json!({ "input": "a" }))
            .await
            .refused(401);
        // the page is there to ask for the key
        for path in ["/livez", "/readyz", "/", "/assets/app.js"] {
            assert_eq!(server.get(path).await.status, StatusCode::OK);
        }
    });
}

#[test]
fn names_of_other_sites_are_not_answered_to() {
    run(async {
        let server = Server::new(Limits::default(), 1);
        let from = |host: &str| {
            Request::get("/v1/items")
                .header(header::HOST, host)
                .body(Body::empty())
                .unwrap()
        };
        assert_eq!(server.send(from("localhost:8080")).await.status, StatusCode::OK);
        server.send(from("rebound.example:8080")).await.refused(403);
    });
}

/// Ten times as many requests as there is room for: some are served, the others are refused at once, and afterwards all is as before.
#[test]
fn overload_refuses_and_recovers() {
    run(async {
        let limits = Limits {
            queue_items: 8,
            requests: 40,
            ..Limits::default()
        };
        let server = Arc::new(Server::new(limits, 3));
        let uri = data_uri(&std::fs::read(&photos(1)[0]).unwrap());
        let end = tokio::time::Instant::now() + Duration::from_secs(3);
        let clients = (0..80).map(|client| {
            let (server, uri) = (server.clone(), uri.clone());
            tokio::spawn(async move {
                let mut seen = std::collections::BTreeMap::<u16, u32>::new();
                while tokio::time::Instant::now() < end {
                    let (path, body) = match client % 3 {
                        0 => ("/v1/embeddings", json!({ "input": ["a dog", "a cat"] })),
                        1 => (
                            "/v1/embeddings",
                            json!({ "input": [{ "image": uri }, { "text": "a" }] }),
                        ),
                        _ => ("/v1/search", json!({ "query": "a dog", "k": 1 })),
                    };
                    let answer = server.post(path, &body).await;
                    *seen.entry(answer.status.as_u16()).or_default() += 1;
                    if answer.status != StatusCode::OK {
                        assert!(answer.headers.contains_key(header::RETRY_AFTER), "{answer:?}");
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                seen
            })
        });
        let mut seen = std::collections::BTreeMap::<u16, u32>::new();
        for client in clients.collect::<Vec<_>>() {
            for (status, count) in client.await.unwrap() {
                *seen.entry(status).or_default() += count;
            }
        }
        assert!(seen.keys().all(|status| matches!(status, 200 | 429 | 503)), "{seen:?}");
        assert!(seen[&200] > 10 && seen[&429] > 10, "{seen:?}");
        // nothing is left behind
        let engine = server.app.engine().unwrap();
        assert_eq!((engine.queue.depth(), engine.queue.room().used().items), (0, 0));
        assert_eq!(server.app.requests.available_permits(), 40);
        assert_eq!(server.app.bodies.available_permits(), server.app.limits.bodies / 1024);
        server.post("/v1/search", &json!({ "query": "a dog" })).await.good();
    });
}

#[test]
fn a_client_that_leaves_frees_everything_it_had() {
    run(async {
        let server = Arc::new(Server::new(Limits::default(), 0));
        let engine = server.app.engine().unwrap();
        let body = json!({ "input": vec!["a dog on the street"; 2000] });
        for wait in [0, 1, 5, 20] {
            let (server, body) = (server.clone(), body.clone());
            let client = tokio::spawn(async move { server.post("/v1/embeddings", &body).await.status });
            tokio::time::sleep(Duration::from_millis(wait)).await;
            client.abort();
            let _ = client.await;
        }
        // what a thread has begun it finishes; nothing new begins for them
        assert_eq!(
            (engine.queue.depth(), engine.queue.room().used()),
            (0, Default::default())
        );
        assert_eq!(server.app.requests.available_permits(), server.app.limits.requests);
        server.post("/v1/embeddings", &json!({ "input": "a" })).await.good();
    });
}

#[test]
fn a_request_that_takes_too_long_ends_at_its_deadline() {
    run(async {
        let limits = Limits {
            deadline: Duration::from_millis(1),
            ..Limits::default()
        };
        let server = Server::new(limits, 0);
        let answer = server
            .post("/v1/embeddings", &json!({ "input": vec!["a dog on the street"; 2000] }))
            .await;
        answer.refused(504);
        assert_eq!(server.app.engine().unwrap().queue.room().used(), Default::default());
    });
}

#[test]
fn a_body_that_does_not_arrive_is_not_waited_for() {
    run(async {
        let limits = Limits {
            body_time: Duration::from_millis(30),
            ..Limits::default()
        };
        let server = Server::new(limits, 0);
        let (sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
        let never = http_body_util::StreamBody::new(Never(receiver));
        let request = Request::post("/v1/embeddings").header(header::CONTENT_TYPE, "application/json");
        server.send(request.body(Body::new(never)).unwrap()).await.refused(408);
        drop(sender);
    });
}

/// What a body takes of the memory grows with what has arrived.
#[test]
fn promises_of_large_bodies_take_nothing() {
    run(async {
        let limits = Limits {
            body_time: Duration::from_secs(5),
            bodies: 1 << 20,
            body: 1 << 20,
            ..Limits::default()
        };
        let server = Arc::new(Server::new(limits, 0));
        let mut senders = Vec::new();
        let mut slow = Vec::new();
        for _ in 0..20 {
            let (sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
            senders.push(sender);
            let request = Request::post("/v1/embeddings")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CONTENT_LENGTH, 1 << 20)
                .body(Body::new(http_body_util::StreamBody::new(Never(receiver))))
                .unwrap();
            let server = server.clone();
            slow.push(tokio::spawn(async move { server.send(request).await.status.as_u16() }));
        }
        tokio::task::yield_now().await;
        server.post("/v1/embeddings", &json!({ "input": "a dog" })).await.good();
        drop(senders);
        for status in slow {
            assert_eq!(status.await.unwrap(), 400);
        }
        assert_eq!(server.app.bodies.available_permits(), 1 << 10);
    });
}

/// A body of which nothing comes.
struct Never(tokio::sync::mpsc::Receiver<()>);

impl futures_core::Stream for Never {
    type Item = Result<hyper::body::Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|_| None)
    }
}

#[test]
fn a_panic_is_an_answer_like_any_other() {
    run(async {
        let server = Server::unloaded(Limits::default(), None);
        let handler = || async {
            assert!(std::hint::black_box(false), "a handler that fails");
        };
        let router = Router::new()
            .route("/panic", get(handler))
            .layer(from_fn_with_state(server.app.clone(), crate::guard::outermost));
        let server = Server {
            app: server.app.clone(),
            router,
            dir: tempfile::tempdir().unwrap(),
        };
        let message = server.get("/panic").await.refused(500);
        assert!(!message.contains("a handler that fails"), "{message}");
    });
}

#[test]
fn what_happens_is_measured() {
    run(async {
        let server = Server::new(Limits::default(), 4);
        let uri = data_uri(&std::fs::read(&photos(1)[0]).unwrap());
        server.post("/v1/search", &json!({ "query": "a dog" })).await.good();
        server.post("/v1/search", &json!({ "image": uri })).await.good();
        server.post("/v1/search", &json!({ "k": 0 })).await.refused(422);
        server.get("/v1/unknown-1").await.refused(404);
        let answer = server.get("/metrics").await;
        assert!(
            answer.headers[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .starts_with("text/plain; version=0.0.4")
        );
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        for line in [
            "bifocal_request_duration_seconds_count{route=\"/v1/search\",code=\"200\"} 2",
            "bifocal_request_duration_seconds_count{route=\"/v1/search\",code=\"422\"} 1",
            "bifocal_request_duration_seconds_count{route=\"(none)\",code=\"404\"} 1",
            "bifocal_inference_seconds_count{tower=\"text\"} 1",
            "bifocal_inference_seconds_count{tower=\"vision\"} 1",
            "bifocal_preprocess_seconds_count{kind=\"image\"} 1",
            "bifocal_batch_size_sum{tower=\"text\"} 1",
            "bifocal_batch_pixels_sum 1024",
            "bifocal_queue_seconds_count 2",
            "bifocal_search_seconds_count{store=\"local\"} 2",
            "bifocal_rejected_total{reason=\"invalid_field\"} 1",
            "bifocal_index_vectors 4",
            "bifocal_model_loaded 1",
            "bifocal_queue_depth 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    });
}
