//! `bifocal serve` as a process: what it answers, how it ends, what it does with slow and absent clients.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{fails, samples, succeeds, text, tiny};
use serde_json::{Value, json};

/// A running service.
struct Service {
    child: Child,
    address: String,
    messages: BufReader<std::process::ChildStderr>,
}

impl Service {
    /// Starts on any free port; waits until it is ready.
    fn start(args: &[&str]) -> Self {
        let all = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        let mut child = common::bifocal(&all)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut messages = BufReader::new(child.stderr.take().expect("piped"));
        let mut first = String::new();
        messages.read_line(&mut first).expect("a line");
        let address = first.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("{first}")).to_owned();
        let service = Self {
            child,
            address,
            messages,
        };
        let begun = Instant::now();
        while service.get("/readyz").0 != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it never got ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        service
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a socket");
        stream
    }

    fn send(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it reads");
        answer(stream)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
    }

    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.send(&post(path, body))
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill starts").success());
    }

    /// Waits for the end and gives the exit code and the rest of the messages.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("a child of ours");
        let mut rest = String::new();
        self.messages.read_to_string(&mut rest).expect("UTF-8");
        (status.code(), rest)
    }
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an answer");
    let all = String::from_utf8_lossy(&all).into_owned();
    let status = all
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = all.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

fn row(answer: &(u16, String)) -> Vec<f32> {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let answer: Value = serde_json::from_str(&answer.1).expect("JSON");
    serde_json::from_value(answer["data"][0]["embedding"].clone()).expect("a row")
}

/// The rows of a .npy file of f32.
fn npy(path: &Path, dim: usize) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(path).expect("rows");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values: Vec<f32> = bytes[start..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect();
    values.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

#[test]
fn it_answers_what_the_other_commands_do_and_ends_in_good_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let model = tiny::write_clip(dir.path());
    let photos = samples("photos/images");
    succeeds(&["index", "--model", text(&model), "--store", &at("store"), text(&photos)]);
    succeeds(&[
        "embed",
        "--model",
        text(&model),
        "--text",
        "a dog",
        "two people",
        "--out",
        &at("rows.npy"),
    ]);
    let expected = npy(&dir.path().join("rows.npy"), 12);
    let service = Service::start(&["--store", &at("store")]);
    for (sentence, expected) in ["a dog", "two people"].iter().zip(&expected) {
        let found = row(&service.post("/v1/embeddings", &json!({ "input": sentence })));
        let cosine: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
        assert!((cosine - 1.0).abs() < 1e-5, "{cosine}");
    }
    // and in one batch
    let (_, both) = service.post("/v1/embeddings", &json!({ "input": ["a dog", "two people"] }));
    let both: Value = serde_json::from_str(&both).expect("JSON");
    for (at, expected) in expected.iter().enumerate() {
        let found: Vec<f32> = serde_json::from_value(both["data"][at]["embedding"].clone()).expect("a row");
        let cosine: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
        assert!((cosine - 1.0).abs() < 1e-5, "{cosine}");
    }
    let printed = succeeds(&["search", "--store", &at("store"), "a dog", "-k", "5", "--json"]);
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    let (status, found) = service.post("/v1/search", &json!({ "query": "a dog", "k": 5 }));
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let keys = |found: &Value| {
        found["hits"]
            .as_array()
            .expect("hits")
            .iter()
            .map(|hit| hit["key"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((status, keys(&found)), (200, keys(&printed)));
    let (status, jpeg) = service.get(found["hits"][0]["thumbnail"].as_str().expect("an address"));
    assert!(status == 200 && jpeg.contains("JFIF"));
    // the store can be written meanwhile, and searches see it
    let gone = found["hits"][0]["key"].as_str().expect("a key").to_owned();
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).expect("a folder");
    std::fs::copy(&gone, copy.join("new.jpg")).expect("a copy");
    succeeds(&["index", "--model", text(&model), "--store", &at("store"), text(&copy)]);
    let (_, more) = service.post("/v1/search", &json!({ "query": "a dog", "k": 5 }));
    let more: Value = serde_json::from_str(&more).expect("JSON");
    assert_eq!(more["items"].as_u64(), found["items"].as_u64().map(|items| items + 1));
    service.signal("-TERM");
    let (code, messages) = service.ended();
    assert_eq!(code, Some(0), "{messages}");
    assert!(
        messages.contains("ending") && !messages.contains("panicked"),
        "{messages}"
    );
}

/// Requests that have begun are answered after SIGTERM; `/readyz` says 503 meanwhile; none is dropped.
#[test]
fn what_has_begun_is_finished() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let service = Service::start(&["--model", text(&model)]);
    let body = json!({ "input": vec!["a dog on the red bus"; 500], "encoding_format": "base64" });
    let request = post("/v1/embeddings", &body);
    let clients: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = service.connect();
            // the end of the body comes after the signal
            stream
                .write_all(&request.as_bytes()[..request.len() - 10])
                .expect("it reads");
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    service.signal("-TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(service.get("/readyz").0, 503);
    assert_eq!(service.get("/livez").0, 200);
    for mut stream in clients {
        stream
            .write_all(&request.as_bytes()[request.len() - 10..])
            .expect("it reads");
        let (status, body) = answer(stream);
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["data"].as_array().map(Vec::len), Some(500));
    }
    let (code, messages) = service.ended();
    assert_eq!(code, Some(0), "{messages}");
}

/// Clients that say nothing, half of something, nonsense, or go away: the service answers others, and takes none of it badly.
#[test]
fn clients_that_misbehave_are_nobody_s_problem() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let service = Service::start(&["--model", text(&model)]);
    let silent: Vec<TcpStream> = (0..50).map(|_| service.connect()).collect();
    for nonsense in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut stream = service.connect();
        stream.write_all(nonsense.as_bytes()).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let (status, body) = answer(stream);
        assert!(
            status == 0 || (400..=505).contains(&status) && status != 500,
            "{nonsense:?}: {status} {body}"
        );
    }
    let headers = "x: y\r\n".repeat(30_000);
    let mut stream = service.connect();
    // it may hang up before all was sent
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
    for _ in 0..20 {
        let mut stream = service.connect();
        let body = json!({ "input": vec!["a dog"; 2000] });
        stream
            .write_all(post("/v1/embeddings", &body).as_bytes())
            .expect("it reads");
        drop(stream);
    }
    row(&service.post("/v1/embeddings", &json!({ "input": "a dog" })));
    // what the others had is free again
    let begun = Instant::now();
    while !service.get("/metrics").1.contains("bifocal_admitted_items 0\n") {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            service.get("/metrics").1
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(silent);
    service.signal("-INT");
    let (code, messages) = service.ended();
    assert_eq!((code, messages.contains("panicked")), (Some(0), false), "{messages}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    assert!(fails(2, &["serve"]).contains("--store"));
    assert!(fails(2, &["serve", "--model", text(&model), "--listen", "nowhere"]).contains("--listen"));
    let urls = fails(
        2,
        &["serve", "--model", text(&model), "--allow-image-urls", "http://a/b"],
    );
    assert!(urls.contains("not a host name"), "{urls}");
    assert!(fails(1, &["serve", "--store", &at("none"), "--listen", "127.0.0.1:0"]).contains("there is no store"));
    assert!(fails(1, &["serve", "--model", &at("none"), "--listen", "127.0.0.1:0"]).contains("no model"));
    std::fs::write(dir.path().join("key"), " \n").expect("write");
    assert!(fails(2, &["serve", "--model", text(&model), "--api-key-file", &at("key")]).contains("is empty"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    assert!(fails(1, &["serve", "--model", text(&model), "--listen", &address]).contains("cannot listen"));
}

#[test]
fn shells_and_man_get_what_they_need() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeeds(&["completions", shell]);
        assert!(
            script.contains("serve") && script.contains("allow-image-urls"),
            "{shell}"
        );
    }
    assert!(succeeds(&["man"]).contains(".TH"));
    let dir = tempfile::tempdir().expect("a folder");
    succeeds(&["man", "--out", text(dir.path())]);
    let page = std::fs::read_to_string(dir.path().join("bifocal-serve.1")).expect("a page");
    assert!(page.contains("allow\\-image\\-urls"), "{page}");
}

#[test]
fn pictures_in_a_shard_are_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let (shard, store) = (dir.path().join("s.tar"), dir.path().join("store"));
    let mut tar = tar::Builder::new(std::fs::File::create(&shard).expect("a shard"));
    let photo = samples("photos/images/000000012280.jpg");
    tar.append_path_with_name(&photo, "one.jpg").expect("a member");
    tar.finish().expect("a shard");
    succeeds(&["index", "--model", text(&model), "--store", text(&store), text(&shard)]);
    let service = Service::start(&["--store", text(&store), "--model", text(&model)]);
    let key = shard.canonicalize().expect("a shard").join("one");
    let (status, found) = service.get("/v1/items");
    assert!(status == 200 && found.contains(text(&key)), "{found}");
    let get = |what: &str, key: &Path| service.get(&format!("/v1/items/{what}?key={}", text(key)));
    let bytes = std::fs::read(&photo).expect("a photo");
    assert_eq!(
        get("picture", &key),
        (200, String::from_utf8_lossy(&bytes).into_owned())
    );
    assert_eq!(get("thumbnail", &key).0, 200);
    // Not the shard itself, nor what else is in it.
    assert_eq!(get("picture", &shard).0, 404);
    assert_eq!(get("picture", &key.with_file_name("two")).0, 404);
    std::fs::remove_file(&shard).expect("remove");
    assert_eq!((get("picture", &key).0, get("thumbnail", &key).0), (404, 200));
    service.signal("-TERM");
    assert_eq!(service.ended().0, Some(0));
}
