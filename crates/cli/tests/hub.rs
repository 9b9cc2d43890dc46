//! `hf:org/name` against a hub on this machine: fetched once, resumed, checked, and found again offline.
#![cfg(feature = "hub")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{bifocal, text, tiny};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// What the hub does to bodies of the weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    /// Ends each of them after so many bytes.
    Cuts(usize),
    /// Sends so many bytes and then nothing, without closing.
    Stalls(usize),
    /// Sends other bytes.
    Lies,
    /// Ignores ranges.
    Whole,
}

struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// More names that the hub claims to have.
    claims: Vec<Value>,
    commit: String,
    mood: Mood,
    /// Path, range and authorization of each request.
    requests: Vec<[String; 3]>,
}

impl Hub {
    /// A hub with the tiny CLIP, and files that nobody needs.
    fn start(dir: &Path) -> Self {
        let model = tiny::write_clip(dir);
        let mut files: BTreeMap<String, Vec<u8>> = tiny::files(&model)
            .into_iter()
            .map(|(path, bytes)| (path.file_name().unwrap().to_string_lossy().into_owned(), bytes))
            .collect();
        files.insert("README.md".into(), b"# tiny".to_vec());
        files.insert("pytorch_model.bin".into(), vec![0; 1000]);
        files.insert("onnx/model.onnx".into(), vec![0; 1000]);
        let state = Arc::new(Mutex::new(State {
            files,
            claims: Vec::new(),
            commit: COMMIT.into(),
            mood: Mood::Fine,
            requests: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { endpoint, state }
    }

    fn set(&self, mood: Mood) {
        let mut state = self.state.lock().unwrap();
        state.mood = mood;
        state.requests.clear();
    }

    fn requests(&self) -> Vec<[String; 3]> {
        self.state.lock().unwrap().requests.clone()
    }

    /// `bifocal info hf:org/tiny` with this hub and a cache.
    fn info(&self, home: &Path, more: &[(&str, &str)]) -> Command {
        let mut command = bifocal(&["info", "hf:org/tiny", "--json"]);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", home).env("HF_ENDPOINT", &self.endpoint);
        command.envs(more.iter().copied());
        command
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())))
        .collect();
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let (status, range, body, mood) = {
        let mut state = state.lock().unwrap();
        state
            .requests
            .push([path.clone(), header("range"), header("authorization")]);
        let prefix = format!("/org/tiny/resolve/{}/", state.commit);
        if path == "/api/models/org/tiny/revision/main?blobs=true" {
            (200, String::new(), listing(&state), Mood::Fine)
        } else if let Some(bytes) = path.strip_prefix(&prefix).and_then(|name| state.files.get(name)) {
            let weights = path.ends_with(WEIGHTS);
            let mood = if weights { state.mood } else { Mood::Fine };
            let from = header("range");
            let from = from.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>();
            match from {
                Ok(from) if mood != Mood::Whole => {
                    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                    (206, range, bytes[from..].to_vec(), mood)
                }
                _ => (200, String::new(), bytes.clone(), mood),
            }
        } else {
            (404, String::new(), Vec::new(), Mood::Fine)
        }
    };
    let length = body.len();
    let mut sent = body;
    match mood {
        Mood::Cuts(n) | Mood::Stalls(n) => sent.truncate(n),
        Mood::Lies => sent.iter_mut().for_each(|b| *b ^= 1),
        Mood::Fine | Mood::Whole => {}
    }
    let head = format!("HTTP/1.1 {status} X\r\n{range}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&sent));
    if let Mood::Stalls(_) = mood {
        // until the other side goes away
        let _ = stream.read(&mut [0; 16]);
    }
}

fn listing(state: &State) -> Vec<u8> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let siblings = state.files.iter().map(|(name, bytes)| {
        let mut sibling = json!({
            "rfilename": name, "size": bytes.len(),
            "blobId": hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize()),
        });
        if name == WEIGHTS {
            sibling["lfs"] = json!({"sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": 130});
        }
        sibling
    });
    let siblings: Vec<Value> = siblings.chain(state.claims.iter().cloned()).collect();
    json!({"id": "org/tiny", "sha": state.commit, "siblings": siblings})
        .to_string()
        .into_bytes()
}

fn good(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["text_tower"]["longest_text_in_tokens"], 24);
    told
}

fn bad(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn blobs(home: &Path) -> Vec<(String, u64)> {
    let folder = home.join("hub/models--org--tiny/blobs");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let file = |e: std::fs::DirEntry| {
        (
            e.file_name().to_string_lossy().into_owned(),
            e.metadata().unwrap().len(),
        )
    };
    entries.map(file).collect()
}

fn setup() -> (tempfile::TempDir, Hub, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let home = dir.path().join("home");
    (dir, hub, home)
}

#[test]
fn a_model_is_fetched_once_into_the_hubs_own_layout() {
    let (_dir, hub, home) = setup();
    let told = good(&hub.info(&home, &[("HF_TOKEN", "secret")]).output().unwrap());
    let snapshot = home.join("hub/models--org--tiny/snapshots").join(COMMIT);
    assert_eq!(told["model"], text(&snapshot));
    let refs = home.join("hub/models--org--tiny/refs/main");
    assert_eq!(std::fs::read_to_string(refs).unwrap(), COMMIT);
    let link = std::fs::read_link(snapshot.join(WEIGHTS)).unwrap();
    assert!(link.starts_with("../../blobs"), "{}", link.display());
    let requests = hub.requests();
    assert!(requests.iter().all(|[_, _, token]| token == "Bearer secret"));
    let asked = |name: &str| requests.iter().any(|[path, ..]| path.ends_with(name));
    assert!(asked("config.json") && asked(WEIGHTS) && asked("tokenizer.json"));
    assert!(!asked("README.md") && !asked("pytorch_model.bin") && !asked("model.onnx"));
    hub.set(Mood::Fine);
    good(&hub.info(&home, &[]).output().unwrap());
    assert_eq!(hub.requests().len(), 1, "only whether there is a newer commit");
}

#[test]
fn offline_finds_what_is_there_and_says_what_is_not() {
    let (_dir, hub, home) = setup();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let message = bad(&hub.info(&home, &offline).output().unwrap());
    assert!(
        message.contains("HF_HUB_OFFLINE") && message.contains("hf:org/tiny"),
        "{message}"
    );
    assert!(hub.requests().is_empty());
    good(&hub.info(&home, &[]).output().unwrap());
    hub.set(Mood::Fine);
    good(&hub.info(&home, &offline).output().unwrap());
    assert!(hub.requests().is_empty());
    // a hub that is gone: the same model, and a word about it
    let gone = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    let output = hub.info(&home, &gone).output().unwrap();
    good(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be reached"));
    let message = bad(&hub.info(&home.join("other"), &gone).output().unwrap());
    assert!(message.contains("cannot be fetched"), "{message}");
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let (_dir, hub, home) = setup();
    hub.set(Mood::Stalls(5000));
    let mut child = hub
        .info(&home, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let partial = || {
        blobs(&home)
            .iter()
            .any(|(name, bytes)| name.ends_with(".incomplete") && *bytes == 5000)
    };
    while !partial() {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", blobs(&home));
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.set(Mood::Fine);
    good(&hub.info(&home, &[]).output().unwrap());
    let ranges: Vec<String> = hub.requests().into_iter().map(|[_, range, _]| range).collect();
    assert!(ranges.contains(&"bytes=5000-".to_owned()), "{ranges:?}");
    assert!(blobs(&home).iter().all(|(name, _)| !name.contains("incomplete")));
}

#[test]
fn connections_that_break_are_taken_up_again() {
    let (_dir, hub, home) = setup();
    let third = hub.state.lock().unwrap().files[WEIGHTS].len() / 3 + 1;
    hub.set(Mood::Cuts(third));
    good(&hub.info(&home, &[]).output().unwrap());
    let weights = hub
        .requests()
        .into_iter()
        .filter(|[path, ..]| path.ends_with(WEIGHTS))
        .count();
    assert_eq!(weights, 3);
    // one that always breaks is an error, and one that does not know ranges starts anew
    let other = home.join("other");
    hub.set(Mood::Cuts(10));
    let message = bad(&hub.info(&other, &[]).output().unwrap());
    assert!(
        message.contains("50 of") && message.contains("goes on from there"),
        "{message}"
    );
    hub.set(Mood::Whole);
    good(&hub.info(&other, &[]).output().unwrap());
}

#[test]
fn what_does_not_hash_right_is_not_kept() {
    let (_dir, hub, home) = setup();
    hub.set(Mood::Lies);
    let message = bad(&hub.info(&home, &[]).output().unwrap());
    assert!(message.contains("hashes to") && message.contains(WEIGHTS), "{message}");
    assert!(
        blobs(&home).iter().all(|(name, _)| name.len() == 40),
        "{:?}",
        blobs(&home)
    );
    assert!(!home.join("hub/models--org--tiny/refs/main").exists());
    hub.set(Mood::Fine);
    good(&hub.info(&home, &[]).output().unwrap());
}

#[test]
fn a_hostile_hub_writes_nothing_elsewhere() {
    let (dir, hub, home) = setup();
    let id = "a".repeat(40);
    for name in [
        "../../../evil/config.json",
        "/tmp/evil/config.json",
        "1_x/../../config.json",
        "",
    ] {
        hub.state.lock().unwrap().claims = vec![json!({"rfilename": name, "size": 4, "blobId": id})];
        let message = bad(&hub.info(&home, &[]).output().unwrap());
        assert!(message.contains("leads out of its folder"), "{message}");
    }
    for (size, blob) in [
        (Value::Null, json!(id)),
        (json!(4), json!("../../evil")),
        (json!(4), Value::Null),
    ] {
        hub.state.lock().unwrap().claims = vec![json!({"rfilename": "config.json", "size": size, "blobId": blob})];
        let message = bad(&hub.info(&home, &[]).output().unwrap());
        assert!(message.contains("no size and hash"), "{message}");
    }
    hub.state.lock().unwrap().claims.clear();
    hub.state.lock().unwrap().commit = "../../evil".into();
    let message = bad(&hub.info(&home, &[]).output().unwrap());
    assert!(message.contains("which is none"), "{message}");
    assert!(!dir.path().join("evil").exists() && !home.exists());
    // a name that is no model's never reaches the hub
    let message = String::from_utf8(bifocal(&["info", "hf:../x"]).output().unwrap().stderr).unwrap();
    assert!(message.contains("hf:organisation/name"), "{message}");
}
