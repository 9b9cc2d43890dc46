//! What clients really send (`scripts/fixtures/serve_clients.py` recorded it) is answered as they expect.

use super::*;

#[derive(serde::Deserialize)]
struct Recorded {
    calls: Vec<Call>,
}

#[derive(serde::Deserialize)]
struct Call {
    client: String,
    rows: usize,
    path: String,
    headers: std::collections::BTreeMap<String, String>,
    body: String,
}

fn recorded() -> Vec<Call> {
    let text = include_str!("../../tests/fixtures/clients.json");
    serde_json::from_str::<Recorded>(text).unwrap().calls
}

impl Call {
    fn request(&self) -> Request<Body> {
        let mut request = Request::post(&self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = match self.client.as_str() {
            "form" => STANDARD.decode(&self.body).unwrap(),
            _ => self.body.clone().into_bytes(),
        };
        request.body(body.into()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[test]
fn every_recorded_call_is_answered_with_its_rows() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let calls = recorded();
        assert!(calls.len() >= 20);
        for call in calls {
            let answer = server.send(call.request()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}: {:?}", call.client, answer.body);
            let answer = answer.json();
            if call.path == "/v2/embed" {
                for kind in call.json()["embedding_types"].as_array().unwrap() {
                    let rows = answer["embeddings"][kind.as_str().unwrap()].as_array().unwrap();
                    assert_eq!(rows.len(), call.rows, "{}: {kind}", call.client);
                }
                assert_eq!(answer["response_type"], "embeddings_by_type");
                continue;
            }
            let rows = rows(&answer);
            assert_eq!(rows.len(), call.rows, "{}", call.client);
            for row in &rows {
                let length: f32 = row.iter().map(|v| v * v).sum();
                assert!(
                    row.len() == 12 && (length - 1.0).abs() < 1e-5,
                    "{}: {row:?}",
                    call.client
                );
            }
            assert_eq!((&answer["object"], &answer["model"]), (&"list".into(), &"tiny".into()));
            let usage = &answer["usage"];
            assert_eq!(usage["prompt_tokens"], usage["total_tokens"]);
        }
    });
}

/// One picture, sent in every dialect, has one embedding; so has one text.
#[test]
fn all_dialects_agree() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let calls = recorded();
        let find = |name: &str| calls.iter().find(|call| call.client == name).unwrap();
        let mut texts = Vec::new();
        for name in ["openai string", "openai float", "langchain query", "infinity text"] {
            texts.push(rows(&server.send(find(name).request()).await.good()).remove(0));
        }
        let mut pictures = Vec::new();
        for name in ["infinity image", "infinity single image", "vllm image", "form"] {
            pictures.push(rows(&server.send(find(name).request()).await.good()).remove(0));
        }
        let mixed = rows(&server.send(find("jina mixed").request()).await.good());
        texts.push(mixed[0].clone());
        pictures.extend([mixed[1].clone(), mixed[2].clone()]);
        let cohere =
            |answer: Value| serde_json::from_value::<Vec<f32>>(answer["embeddings"]["float"][0].clone()).unwrap();
        texts.push(cohere(server.send(find("cohere texts").request()).await.good()));
        pictures.push(cohere(server.send(find("cohere image").request()).await.good()));
        let both = cohere(server.send(find("cohere inputs").request()).await.good());
        let vllm = rows(&server.send(find("vllm image and text").request()).await.good()).remove(0);
        for text in &texts {
            assert!(cosine(text, &texts[0]) > 0.999_99);
        }
        for picture in &pictures {
            assert!(cosine(picture, &pictures[0]) > 0.999_99);
        }
        let sum: Vec<f32> = texts[0].iter().zip(&pictures[0]).map(|(a, b)| a + b).collect();
        assert!(cosine(&both, &sum) > 0.999_99 && cosine(&vllm, &sum) > 0.999_99);
    });
}

#[test]
fn cohere_s_whole_numbers_keep_the_direction() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let calls = recorded();
        let call = calls.iter().find(|call| call.client == "cohere types").unwrap();
        let answer = server.send(call.request()).await.good();
        let row = |kind: &str| serde_json::from_value::<Vec<f32>>(answer["embeddings"][kind][0].clone()).unwrap();
        assert!(cosine(&row("float"), &row("int8")) > 0.999);
        let shifted: Vec<f32> = row("uint8").iter().map(|v| v - 128.0).collect();
        assert_eq!(shifted, row("int8"));
        let (bits, signed) = (row("ubinary"), row("binary"));
        assert_eq!(bits.len(), 2);
        assert_eq!(bits.iter().map(|b| b - 128.0).collect::<Vec<_>>(), signed);
        for (at, value) in row("float").iter().enumerate() {
            let bit = bits[at / 8] as u8 >> (7 - at % 8) & 1;
            assert_eq!(bit == 1, *value > 0.0);
        }
        assert_eq!(answer["texts"], serde_json::json!(["a dog"]));
        assert!(answer["meta"]["billed_units"]["input_tokens"].as_u64().unwrap() > 0);
    });
}
