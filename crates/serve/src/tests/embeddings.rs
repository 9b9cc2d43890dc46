//! `/v1/embeddings` beyond its dialects, `/v1/classify`, `/v1/models`.

use serde_json::json;

use super::*;

#[test]
fn batched_is_single_is_what_the_model_gives() {
    run(async {
        let server = Arc::new(Server::new(Limits::default(), 0));
        let words = [
            "a dog",
            "the red bus on a street",
            "",
            "two people riding",
            "plate of food with white water in front of her",
        ];
        let texts: Vec<String> = (0..40)
            .map(|i| format!("{} {}", words[i % 5], words[i * 7 % 5]))
            .collect();
        let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expected = model().embed_texts(&refs).unwrap();
        let files = photos(6);
        let sources: Vec<ImageSource> = files.iter().map(|f| f.as_path().into()).collect();
        let loaded = load_images(
            &sources,
            model().preprocess().unwrap(),
            &bifocal_data::Limits::default(),
        )
        .unwrap();
        let expected_pictures = model().embed_images(&loaded.pixels, 6).unwrap();
        // all at once, so that they share batches with each other
        let mut tasks = Vec::new();
        for at in 0..46 {
            let (server, texts, files) = (server.clone(), texts.clone(), files.clone());
            tasks.push(tokio::spawn(async move {
                let body = match at {
                    0..40 => json!({ "input": texts[at] }),
                    _ => json!({ "input": data_uri(&std::fs::read(&files[at - 40]).unwrap()), "modality": "image" }),
                };
                rows(&server.post("/v1/embeddings", &body).await.good()).remove(0)
            }));
        }
        let whole = rows(&server.post("/v1/embeddings", &json!({ "input": texts })).await.good());
        for (at, task) in tasks.into_iter().enumerate() {
            let row = task.await.unwrap();
            let expected = match at {
                0..40 => &expected[at * 12..][..12],
                _ => &expected_pictures[(at - 40) * 12..][..12],
            };
            assert!(cosine(&row, expected) > 0.999_99, "{at}");
            if at < 40 {
                assert!(cosine(&row, &whole[at]) > 0.999_99, "{at}");
            }
        }
    });
}

#[test]
fn tokens_of_the_model_s_own_tokenizer_are_texts() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let tokens = model().tokenize(&["a dog", "the red bus"]).unwrap();
        let ids: Vec<_> = tokens.iter().map(|t| t.ids.clone()).collect();
        let texts = server
            .post("/v1/embeddings", &json!({ "input": ["a dog", "the red bus"] }))
            .await
            .good();
        let lists = server.post("/v1/embeddings", &json!({ "input": ids })).await.good();
        for (text, list) in rows(&texts).iter().zip(rows(&lists)) {
            assert!(cosine(text, &list) > 0.999_99);
        }
        assert_eq!(texts["usage"], lists["usage"]);
        assert_eq!(texts["usage"]["prompt_tokens"], ids.concat().len());
        let one = server.post("/v1/embeddings", &json!({ "input": ids[0] })).await.good();
        assert!(cosine(&rows(&one)[0], &rows(&lists)[0]) > 0.999_99);
        for bad in [
            json!([tiny::VOCABULARY]),
            json!([1.5]),
            json!([-1]),
            json!([[]]),
            json!([[1], "a"]),
            json!(vec![1; 100]),
        ] {
            let answer = server.post("/v1/embeddings", &json!({ "input": bad })).await;
            if bad[1] != "a" {
                answer.refused(422);
            }
        }
    });
}

#[test]
fn rows_are_written_as_asked() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let ask = async |extra: Value| {
            let mut body = json!({ "input": "a dog" });
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            server.post("/v1/embeddings", &body).await
        };
        let float = rows(&ask(json!({})).await.good()).remove(0);
        assert_eq!(
            rows(&ask(json!({ "encoding_format": "base64" })).await.good())[0],
            float
        );
        assert_eq!(rows(&ask(json!({ "embedding_type": "base64" })).await.good())[0], float);
        let own = rows(&ask(json!({ "normalized": false })).await.good()).remove(0);
        let raw = model().embed_texts_raw(&["a dog"]).unwrap();
        assert_eq!(own, raw);
        assert!(cosine(&own, &float) > 0.999_999);
        let bits = ask(json!({ "encoding_format": "ubinary" })).await.good();
        assert_eq!(bits["data"][0]["embedding"].as_array().map(Vec::len), Some(2));
        ask(json!({ "encoding_format": "hex" })).await.refused(422);
        ask(json!({ "dimensions": 12 })).await.good();
        // the model was not trained to be cut
        for dimensions in [0, 4, 13] {
            let answer = ask(json!({ "dimensions": dimensions })).await;
            assert!(answer.refused(422).contains("not trained"), "{answer:?}");
            assert_eq!(answer.json()["error"]["param"], "dimensions");
        }
        let long = "dog ".repeat(100);
        server.post("/v1/embeddings", &json!({ "input": long })).await.good();
        let whole = json!({ "input": long, "truncate": false });
        assert!(
            server
                .post("/v1/embeddings", &whole)
                .await
                .refused(422)
                .contains("longer than the model reads")
        );
    });
}

#[test]
fn pictures_are_classified() {
    run(async {
        let server = Server::new(Limits::default(), 3);
        let bytes = std::fs::read(&photos(1)[0]).unwrap();
        let body = json!({ "labels": ["cat", "dog", "red train"], "image": data_uri(&bytes), "k": 2 });
        let found = server.post("/v1/classify", &body).await.good();
        let labels = found["results"][0]["labels"].as_array().unwrap().clone();
        assert_eq!(labels.len(), 2);
        assert!(labels[0]["score"].as_f64() >= labels[1]["score"].as_f64());
        // the same of a form, of the store, and with the template that changes nothing
        let (kind, form) = form(
            &[("image", &bytes)],
            &[("labels", "cat, dog"), ("labels", "red train"), ("k", "2")],
        );
        let same = server.post_raw("/v1/classify", &kind, form).await.good();
        assert_eq!(same["results"], found["results"]);
        let key = photos(1)[0].to_str().unwrap().to_owned();
        let stored = json!({ "labels": ["cat", "dog", "red train"], "key": key, "k": 2, "templates": ["{}"] });
        let stored = server.post("/v1/classify", &stored).await.good();
        let label = |found: &Value| found["results"][0]["labels"][0]["label"].clone();
        assert_eq!(label(&stored), label(&found));
        let named = json!({ "labels": ["cat"], "key": key, "templates": "imagenet" });
        let named = server.post("/v1/classify", &named).await.good();
        assert_eq!(named["results"][0]["labels"][0]["share"], 1.0);
        let texts = json!({ "labels": ["cat", "dog"], "input": ["a cat", "a dog"] });
        let texts = server.post("/v1/classify", &texts).await.good();
        assert_eq!(
            (label(&texts), &texts["results"][1]["labels"][0]["label"]),
            ("cat".into(), &"dog".into())
        );
        for bad in [
            json!({ "labels": [], "key": key }),
            json!({ "labels": ["a"] }),
            json!({ "labels": ["a"], "key": key, "templates": "/etc/passwd" }),
            json!({ "labels": ["a"], "key": key, "templates": ["no place"] }),
            json!({ "labels": ["a"], "key": key, "templates": [] }),
            json!({ "labels": "a", "key": key }),
        ] {
            server.post("/v1/classify", &bad).await.refused(422);
        }
        server
            .post("/v1/classify", &json!({ "labels": ["a"], "key": "/etc/passwd" }))
            .await
            .refused(404);
    });
}

#[test]
fn the_model_tells_what_it_is() {
    run(async {
        let server = Server::new(Limits::default(), 0);
        let list = server.get("/v1/models").await.good();
        let model = &list["data"][0];
        assert_eq!(model["id"], "tiny");
        assert_eq!(model["dimensions"], 12);
        assert_eq!(model["image_size"], tiny::SIDE);
        assert_eq!(model["modalities"], json!(["text", "image"]));
        assert_eq!(&server.get("/v1/models/tiny").await.good(), model);
        server.get("/v1/models/other").await.refused(404);
    });
}
