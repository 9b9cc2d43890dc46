//! `/v1/search`, `/v1/items`, `/v1/similarity`, `/v1/map`, and the page.

use serde_json::json;

use super::*;

fn keys(found: &Value) -> Vec<String> {
    found["hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["key"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_picture_finds_itself_however_it_is_asked() {
    run(async {
        let server = Server::new(Limits::default(), 20);
        let file = &photos(20)[7];
        let (key, bytes) = (file.to_str().unwrap(), std::fs::read(file).unwrap());
        let uri = data_uri(&bytes);
        let (kind, body) = form(&[("image", &bytes)], &[("k", "3")]);
        let answers = [
            server.post("/v1/search", &json!({ "image": uri, "k": 3 })).await.good(),
            server
                .post("/v1/search", &json!({ "parts": [{ "image": uri }], "k": 3 }))
                .await
                .good(),
            server
                .post("/v1/search", &json!({ "parts": [{ "key": key, "weight": 2 }], "k": 3 }))
                .await
                .good(),
            server.post_raw("/v1/search", &kind, body).await.good(),
        ];
        for found in &answers {
            assert_eq!((found["items"].as_u64(), keys(found).len()), (Some(20), 3));
            let hit = &found["hits"][0];
            assert_eq!(hit["key"], key);
            assert!(hit["score"].as_f64().unwrap() > 0.999, "{hit}");
            assert_eq!(hit["name"], file.file_name().unwrap().to_str().unwrap());
            assert_eq!(hit["metadata"]["number"], 7);
            assert!(found["took_ms"].as_f64().unwrap() > 0.0);
        }
        // more like it: the others, in the same order
        let like = server.post("/v1/search", &json!({ "like": key, "k": 2 })).await.good();
        assert_eq!(keys(&like), keys(&answers[0])[1..]);
    });
}

#[test]
fn texts_weights_and_minus() {
    run(async {
        let server = Server::new(Limits::default(), 20);
        let search = async |body: Value| server.post("/v1/search", &body).await.good();
        let dog = search(json!({ "query": "a dog" })).await;
        assert_eq!(keys(&dog).len(), 20, "24 are asked for, 20 are there");
        let same = search(json!({ "parts": [{ "text": "a dog", "weight": 0.3 }] })).await;
        assert_eq!(keys(&same), keys(&dog));
        let away = search(json!({ "parts": [{ "text": "a dog", "weight": -1 }] })).await;
        assert_eq!(keys(&away), keys(&dog).into_iter().rev().collect::<Vec<_>>());
        let both =
            search(json!({ "query": "a dog", "parts": [{ "text": "red train", "weight": -0.5 }], "k": 5 })).await;
        let embed = |text: &str| model().embed_texts(&[text]).unwrap();
        let direction: Vec<f32> = embed("a dog")
            .iter()
            .zip(embed("red train"))
            .map(|(a, b)| a - 0.5 * b)
            .collect();
        let expected = server.app.engine().unwrap().store.as_ref().unwrap();
        let expected = store::search_keys(&**expected, &direction, 5);
        assert_eq!(keys(&both), expected);
        let written = search(json!({ "query": "a dog - 0.5:\"red train\"", "k": 5 })).await;
        assert_eq!(keys(&written), expected);
        let best = dog["hits"][3]["score"].as_f64().unwrap();
        let above = search(json!({ "query": "a dog", "min_score": best - 1e-6 })).await;
        assert_eq!(keys(&above), keys(&dog)[..4]);
    });
}

/// What the store itself finds.
mod store {
    use bifocal_search::Store;

    pub fn search_keys(store: &dyn Store, query: &[f32], k: usize) -> Vec<String> {
        let wanted = crate::store::Wanted {
            k,
            ..Default::default()
        };
        let found = crate::store::search(store, query, &wanted).unwrap();
        found.hits.into_iter().map(|hit| hit.key).collect()
    }
}

#[test]
fn filters_never_shrink_what_is_found() {
    run(async {
        let server = Server::new(Limits::default(), 20);
        let all = server.post("/v1/search", &json!({ "query": "a dog" })).await.good();
        let body = json!({ "query": "a dog", "where": "number >= 5 and number < 9", "k": 10 });
        let some = server.post("/v1/search", &body).await.good();
        assert_eq!((&some["items"], &some["matched"]), (&json!(20), &json!(4)));
        let number = |hit: &Value| hit["metadata"]["number"].as_u64().unwrap();
        let of = |found: &Value| found["hits"].as_array().unwrap().iter().map(number).collect::<Vec<_>>();
        assert_eq!(
            of(&some),
            of(&all).into_iter().filter(|n| (5..9).contains(n)).collect::<Vec<_>>()
        );
        assert_eq!(some["hits"][0]["modified"], 5);
        assert!(some["stats"]["deviation"].as_f64().unwrap() > 0.0);
        let listed = server.get("/v1/items?limit=1&where=number%20%3C%202").await.good();
        assert_eq!((&listed["items"], &listed["matched"]), (&json!(20), &json!(2)));
        let listed = server.get("/v1/items?where=number%20%3C%202").await.good();
        assert_eq!(listed["results"].as_array().map(Vec::len), Some(2));
        for bad in ["number >", "((", "number = = 3"] {
            let answer = server.post("/v1/search", &json!({ "query": "a", "where": bad })).await;
            answer.refused(422);
            assert_eq!(answer.json()["error"]["param"], "where");
        }
        server.get("/v1/items?where=%28%28").await.refused(422);
    });
}

#[test]
fn queries_that_cannot_be_are_refused() {
    run(async {
        let server = Server::new(Limits::default(), 2);
        let key = photos(1)[0].to_str().unwrap().to_owned();
        for (status, body) in [
            (422, json!({})),
            (422, json!({ "query": "a", "k": 0 })),
            (422, json!({ "query": "a", "k": 201 })),
            (422, json!({ "query": 5 })),
            (422, json!({ "query": "" })),
            (422, json!({ "query": "a - " })),
            (422, json!({ "query": "a", "limit": 3 })),
            (422, json!({ "image": "/etc/passwd" })),
            (422, json!({ "image": "http://example.com/a.jpg" })),
            (422, json!({ "parts": [{}] })),
            (422, json!({ "parts": [{ "text": "a", "key": key }] })),
            (400, json!({ "parts": [{ "text": "a", "weight": 1e39 }] })),
            (
                422,
                json!({ "parts": [{ "text": "a" }, { "text": "a", "weight": -1 }] }),
            ),
            (404, json!({ "like": "/etc/passwd" })),
            (415, json!({ "image": "data:image/png;base64,aGVsbG8gd29ybGQ=" })),
        ] {
            server.post("/v1/search", &body).await.refused(status);
        }
        let without = Server::new(Limits::default(), 0);
        for path in ["/v1/items", "/v1/map", "/v1/items/thumbnail?key=a"] {
            assert!(without.get(path).await.refused(404).contains("--store"));
        }
        without.post("/v1/search", &json!({ "query": "a" })).await.refused(404);
    });
}

#[test]
fn all_items_are_listed_page_by_page() {
    run(async {
        let server = Server::new(Limits::default(), 11);
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = server.get(&format!("/v1/items?limit=4{after}")).await.good();
            assert_eq!(page["items"], 11);
            pages += 1;
            for item in page["results"].as_array().unwrap() {
                found.push(item["key"].as_str().unwrap().to_owned());
                let thumbnail = server.get(item["thumbnail"].as_str().unwrap()).await;
                assert_eq!(thumbnail.headers[header::CONTENT_TYPE], "image/jpeg");
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", next.replace('/', "%2F")),
                None => break,
            }
        }
        assert_eq!(
            found,
            photos(11)
                .iter()
                .map(|p| p.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        );
        assert_eq!(pages, 3);
        for bad in ["limit=0", "limit=1001", "limit=x"] {
            server.get(&format!("/v1/items?{bad}")).await.refused(422);
        }
    });
}

#[test]
fn pictures_are_given_out_only_if_they_are_the_store_s() {
    run(async {
        let server = Server::unloaded(Limits::default(), None);
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        let file = dir.join("a b&c.jpg");
        let original = std::fs::read(&photos(1)[0]).unwrap();
        std::fs::write(&file, &original).unwrap();
        server.load_files(std::slice::from_ref(&file));
        let at = |key: &str| {
            format!(
                "/v1/items/picture?key={}",
                key.replace('%', "%25").replace(' ', "%20").replace('&', "%26")
            )
        };
        let path = at(file.to_str().unwrap());
        let answer = server.get(&path).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &original[..]));
        assert_eq!(answer.headers[header::CONTENT_TYPE], "image/jpeg");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let again = Request::get(&path).header(header::IF_NONE_MATCH, &answer.headers[header::ETAG]);
        let again = server.send(again.body(Body::empty()).unwrap()).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
        // anything else of this machine
        for key in [
            "/etc/passwd",
            "../../etc/passwd",
            dir.to_str().unwrap(),
            "",
            "a%00b",
            file.parent().unwrap().to_str().unwrap(),
        ] {
            server.get(&at(key)).await.refused(404);
        }
        server.get("/v1/items/picture").await.refused(422);
        // another picture in its place is a picture; a text, a link and nothing are not
        let png = [b"\x89PNG\r\n\x1a\n".as_slice(), b"cut off"].concat();
        for (content, status) in [
            (std::fs::read(&photos(2)[1]).unwrap(), 200),
            (b"secret".to_vec(), 415),
            (png, 422),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(server.get(&path).await.status.as_u16(), status);
        }
        std::fs::remove_file(&file).unwrap();
        server.get(&path).await.refused(404);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
            server.get(&path).await.refused(404);
        }
    });
}

#[test]
fn texts_are_compared_with_a_picture() {
    run(async {
        let server = Server::new(Limits::default(), 2);
        let file = &photos(2)[1];
        let body = json!({ "texts": ["a dog", "red bus"], "key": file.to_str().unwrap() });
        let stored: Vec<f32> =
            serde_json::from_value(server.post("/v1/similarity", &body).await.good()["scores"].clone()).unwrap();
        let uri = data_uri(&std::fs::read(file).unwrap());
        let body = json!({ "texts": ["a dog", "red bus"], "image": uri });
        let sent: Vec<f32> =
            serde_json::from_value(server.post("/v1/similarity", &body).await.good()["scores"].clone()).unwrap();
        let found = server.post("/v1/search", &json!({ "query": "a dog" })).await.good();
        let hit = found["hits"]
            .as_array()
            .unwrap()
            .iter()
            .find(|hit| hit["key"] == file.to_str().unwrap())
            .unwrap()
            .clone();
        assert!((hit["score"].as_f64().unwrap() - f64::from(stored[0])).abs() < 1e-3);
        assert!(
            stored.iter().zip(&sent).all(|(a, b)| (a - b).abs() < 1e-3),
            "{stored:?} {sent:?}"
        );
        server
            .post("/v1/similarity", &json!({ "texts": [], "image": uri }))
            .await
            .refused(422);
        server
            .post("/v1/similarity", &json!({ "texts": ["a"] }))
            .await
            .refused(422);
        server
            .post("/v1/similarity", &json!({ "texts": ["a"], "key": "b", "image": uri }))
            .await
            .refused(422);
    });
}

#[test]
fn the_map_has_every_item_and_follows_the_store() {
    run(async {
        let server = Server::new(Limits::default(), 12);
        let map = server.get("/v1/map").await.good();
        let points = map["points"].as_array().unwrap();
        assert_eq!(points.len(), 12);
        assert!(points.iter().all(|p| p["x"].is_f64() && p["y"].is_f64()));
        let share = map["explained"][0].as_f64().unwrap() + map["explained"][1].as_f64().unwrap();
        assert!(share > 0.2 && share <= 1.0, "{share}");
        assert_eq!(server.get("/v1/map").await.good(), map);
        let store = server.app.engine().unwrap().store.as_ref().unwrap();
        store.delete(&[photos(1)[0].to_str().unwrap()]).unwrap();
        assert_eq!(
            server.get("/v1/map").await.good()["points"].as_array().map(Vec::len),
            Some(11)
        );
    });
}

#[test]
fn the_page_is_strict_about_what_it_loads() {
    run(async {
        let server = Server::unloaded(Limits::default(), None);
        let page = server.get("/").await;
        assert_eq!(page.status, StatusCode::OK);
        let html = String::from_utf8(page.body.to_vec()).unwrap();
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains("http"));
        assert!(!html.contains(" style=\"") && !html.contains("<style") && !html.contains(" onclick="));
        let mut assets = 0;
        for name in html
            .split("=assets/")
            .skip(1)
            .map(|rest| rest.split([' ', '>']).next().unwrap())
        {
            let asset = server.get(&format!("/assets/{name}")).await;
            assert_eq!(asset.status, StatusCode::OK, "{name}");
            let request =
                Request::get(format!("/assets/{name}")).header(header::IF_NONE_MATCH, &asset.headers[header::ETAG]);
            assert_eq!(
                server.send(request.body(Body::empty()).unwrap()).await.status,
                StatusCode::NOT_MODIFIED
            );
            assets += 1;
        }
        assert!(assets >= 2);
        for name in ["none", "..%2f..%2fCargo.toml", "index.html%00"] {
            server.get(&format!("/assets/{name}")).await.refused(404);
        }
    });
}
