//! Bodies that nobody means well with: an error in OpenAI's shape, never a 500, never a panic.

use serde_json::json;

use super::*;

const ROUTES: [&str; 6] = [
    "/v1/embeddings",
    "/v2/embed",
    "/v1/classify",
    "/v1/similarity",
    "/v1/search",
    "/v1/chat/completions",
];

#[test]
fn bodies_that_are_no_request_are_refused() {
    run(async {
        let server = Server::new(Limits::default(), 2);
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let bodies: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b"{".to_vec(),
            b"null".to_vec(),
            b"[]".to_vec(),
            b"\"input\"".to_vec(),
            b"{\"input\":".to_vec(),
            b"{\"input\": \"\\ud800\"}".to_vec(),
            b"{\"input\": \"\xff\xfe\"}".to_vec(),
            b"\0\0\0\0".to_vec(),
            format!("{{\"input\": {deep}}}").into_bytes(),
            format!("{{\"messages\": {deep}}}").into_bytes(),
            deep.into_bytes(),
            b"{\"input\": 1e999}".to_vec(),
            b"{\"labels\": {}}".to_vec(),
        ];
        for route in ROUTES {
            for body in &bodies {
                let answer = server.post_raw(route, "application/json", body.clone().into()).await;
                assert!(
                    matches!(answer.status.as_u16(), 400 | 422),
                    "{route} {:?}: {answer:?}",
                    &body[..body.len().min(40)]
                );
                answer.refused(answer.status.as_u16());
            }
            for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
                server
                    .post_raw(route, kind, r#"{"input": "a"}"#.into())
                    .await
                    .refused(415);
            }
        }
    });
}

#[test]
fn inputs_of_other_shapes_are_refused_with_their_field() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let many: Vec<&str> = vec!["a"; 2049];
        for input in [
            json!(null),
            json!(true),
            json!({}),
            json!([]),
            json!([null]),
            json!([{}]),
            json!([{ "text": 1 }]),
            json!(["a", 1, []]),
            json!([{ "text": "a", "image": "b" }]),
            json!([{ "image": "http://127.0.0.1/" }]),
            json!([{ "image": "!" }]),
            json!(many),
        ] {
            let answer = server.post("/v1/embeddings", &json!({ "input": input })).await;
            answer.refused(422);
        }
        for messages in [
            json!({}),
            json!([]),
            json!([1]),
            json!([{ "role": "user" }]),
            json!([{ "role": "user", "content": [] }]),
            json!([{ "role": "system", "content": "be good" }]),
            json!([{ "role": "user", "content": [{ "type": "audio" }] }]),
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": 3 } }] }]),
        ] {
            server
                .post("/v1/embeddings", &json!({ "messages": messages }))
                .await
                .refused(422);
        }
        for body in [
            json!({ "input": "a", "messages": [] }),
            json!({}),
            json!({ "input": "a", "modality": "audio" }),
            json!({ "input": "hello", "modality": "image" }),
            json!({ "input": "a", "dimensions": -1 }),
            json!({ "input": "a", "dimensions": "x" }),
        ] {
            server.post("/v1/embeddings", &body).await.refused(422);
        }
        for body in [
            json!({}),
            json!({ "texts": [], }),
            json!({ "texts": ["a"], "images": [] }),
            json!({ "texts": vec!["a"; 97] }),
            json!({ "texts": ["a"], "embedding_types": ["int4"] }),
            json!({ "texts": ["a"], "truncate": "START" }),
            json!({ "inputs": [{ "content": [] }] }),
            json!({ "texts": ["a"], "output_dimension": 5 }),
        ] {
            server.post("/v2/embed", &body).await.refused(422);
        }
    });
}

/// A PNG whose head promises more than its data holds.
fn png(width: u32, height: u32) -> Vec<u8> {
    let crc = |data: &[u8]| {
        !data.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            })
        })
    };
    let mut head = b"IHDR".to_vec();
    head.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    head.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(&head);
    bytes.extend(crc(&head).to_be_bytes());
    bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xaeB`\x82");
    bytes
}

#[test]
fn pictures_that_are_none_or_too_large_are_refused() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let photo = std::fs::read(&photos(1)[0]).unwrap();
        let cases: Vec<(u16, Vec<u8>)> = vec![
            (415, b"hello world".to_vec()),
            (415, b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec()),
            (415, b"%PDF-1.7".to_vec()),
            (415, b"PK\x03\x04 a zip file".to_vec()),
            (415, vec![0; 1000]),
            (413, png(60_000, 60_000)),
            (413, png(1, 4_000_000_000)),
            (413, png(16_000, 16_000)),
            (422, png(0, 10)),
            (422, png(100, 100)),
            (422, photo[..photo.len() / 2].to_vec()),
            (422, [&photo[..200], &[0xff; 300][..]].concat()),
        ];
        for (status, bytes) in cases {
            let begin = bytes[..bytes.len().min(16)].to_vec();
            let json = json!({ "input": [{ "text": "a" }, { "image": data_uri(&bytes) }] });
            let answer = server.post("/v1/embeddings", &json).await;
            assert_eq!(answer.status.as_u16(), status, "{begin:?}: {:?}", answer.body);
            assert_eq!(answer.json()["error"]["param"], "input[1]");
            let (kind, body) = form(&[("image", &bytes)], &[]);
            assert_eq!(
                server.post_raw("/v1/embeddings", &kind, body).await.status.as_u16(),
                status,
                "{begin:?}"
            );
        }
    });
}

/// The bombs of the decoder's own tests, as a client would throw them.
#[test]
fn bombs_are_answered_like_other_pictures() {
    run(async {
        let mut limits = Limits::default();
        assert!(limits.picture.time.is_some());
        limits.picture.time = Some(std::time::Duration::from_millis(200));
        let server = Server::new(limits, 0);
        let mut seen = std::collections::BTreeMap::<u16, usize>::new();
        for bomb in bombs::bombs() {
            let (kind, body) = form(&[("image", &bomb.bytes)], &[]);
            let answer = server.post_raw("/v1/embeddings", &kind, body).await;
            let status = answer.status.as_u16();
            let good = matches!(status, 413 | 415 | 422) || status == 200 && !bomb.refused;
            assert!(good, "{}: {status}", bomb.name);
            *seen.entry(status).or_default() += 1;
        }
        assert!(seen.values().sum::<usize>() > 100 && seen.len() >= 3, "{seen:?}");
        server.post("/v1/embeddings", &json!({ "input": "a" })).await.good();
        assert_eq!(server.app.engine().unwrap().queue.room().used(), Default::default());
    });
}

#[test]
fn forms_that_are_none_are_refused() {
    run(async {
        let server = Server::new(Limits::default(), 2);
        let (kind, good) = form(&[], &[("input", "a dog"), ("query", "a dog"), ("labels", "a")]);
        for route in ["/v1/embeddings", "/v1/search", "/v1/classify"] {
            for cut in [0, 1, 20, good.len() / 2, good.len() - 8] {
                let answer = server.post_raw(route, &kind, good.slice(..cut)).await;
                assert!(matches!(answer.status.as_u16(), 400 | 422), "{route} {cut}: {answer:?}");
            }
            server
                .post_raw(route, "multipart/form-data", good.clone())
                .await
                .refused(400);
            let (kind, body) = form(&[("other", b"x")], &[]);
            let answer = server.post_raw(route, &kind, body).await;
            assert!(matches!(answer.status.as_u16(), 415 | 422), "{route}: {answer:?}");
            let latin: Bytes = [&good[..good.len() - 10], b"\xff\r\n--edge--\r\n"].concat().into();
            let answer = server.post_raw(route, &kind, latin).await;
            assert!(matches!(answer.status.as_u16(), 400 | 422), "{route}: {answer:?}");
        }
        let (kind, body) = form(&[], &[("query", "a"), ("k", "many")]);
        server.post_raw("/v1/search", &kind, body).await.refused(422);
    });
}

#[test]
fn bodies_have_limits_whatever_they_claim() {
    run(async {
        let limits = Limits {
            body: 1000,
            bodies: 4 << 10,
            ..Limits::default()
        };
        let server = Server::new(limits, 0);
        let large = json!({ "input": "a".repeat(2000) });
        assert!(
            server
                .post("/v1/embeddings", &large)
                .await
                .refused(413)
                .contains("1000")
        );
        // without a length, and with a length that lies
        let endless = || Request::post("/v1/embeddings").header(header::CONTENT_TYPE, "application/json");
        let bytes = large.to_string();
        server
            .send(endless().body(bytes.clone().into()).unwrap())
            .await
            .refused(413);
        server
            .send(endless().header(header::CONTENT_LENGTH, 10).body(bytes.into()).unwrap())
            .await
            .refused(413);
        let unknown = Request::post("/v1/nothing").body(Body::empty()).unwrap();
        server.send(unknown).await.refused(404);
        server.get("/v1/embeddings").await.refused(405);
        server.get("/v1/models/%ff%fe").await.refused(400);
    });
}
