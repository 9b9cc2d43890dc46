//! The router with a real, tiny model and a real store of the samples' photos.

#[path = "../../../data/tests/common/bombs/mod.rs"]
mod bombs;
mod chat;
mod dialects;
mod embeddings;
mod hostile;
mod life;
mod search;
mod slow;

#[path = "../../../align/tests/common/mod.rs"]
mod tiny;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bifocal_data::{ImageSource, load_images};
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_search::{ContentHash, Entry, FileFacts, Item, LocalStore, Metadata, ModelId, Store};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::access::{Access, ApiKey};
use crate::app::{App, Shared, router};
use crate::engine::{Engine, Loaded};
use crate::limits::Limits;

/// The model on the disk, made once.
fn model_path() -> &'static Path {
    static PATH: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let made = || {
        let dir = tempfile::tempdir().unwrap();
        let path = tiny::write_clip(dir.path());
        (dir, path)
    };
    &PATH.get_or_init(made).1
}

fn model() -> Model {
    Model::open(model_path(), &TextOptions::default()).unwrap()
}

/// The files of the first photos of the samples.
fn photos(n: usize) -> Vec<PathBuf> {
    let dir = tiny::photos().join("images").canonicalize().unwrap();
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all.truncate(n);
    all
}

/// A store of some files in `dir`.
fn store(dir: &Path, model: &Model, files: &[PathBuf]) -> LocalStore {
    let id = ModelId {
        fingerprint: model.fingerprint().to_owned(),
        dim: model.dim(),
        name: "tiny".to_owned(),
    };
    let store = LocalStore::open_writer(dir, &id).unwrap();
    let sources: Vec<ImageSource> = files.iter().map(|path| path.as_path().into()).collect();
    let loaded = load_images(&sources, model.preprocess().unwrap(), &bifocal_data::Limits::default()).unwrap();
    let rows = model.embed_images(&loaded.pixels, files.len()).unwrap();
    let entry = |(at, (path, row)): (usize, (&PathBuf, &[f32]))| {
        let item = Item {
            file: FileFacts {
                key: path.to_str().unwrap().to_owned(),
                size: 1,
                modified_ns: 5_000_000,
                hash: ContentHash::of_file(path).unwrap(),
            },
            metadata: Metadata::from_iter([("number".to_owned(), at.into())]),
            thumbnail: None,
        };
        Entry::new(item, row.to_vec())
    };
    let entries: Vec<Entry> = files
        .iter()
        .zip(rows.chunks_exact(model.dim()))
        .enumerate()
        .map(entry)
        .collect();
    store.upsert(&entries).unwrap();
    store
}

/// A service without a socket.
struct Server {
    app: Shared,
    router: Router,
    dir: tempfile::TempDir,
}

/// An answer that was read completely.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The JSON of an answer that must have succeeded.
    fn good(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        self.json()
    }

    /// Checks the shape of an error and gives its message.
    fn refused(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        let error = &self.json()["error"];
        for field in ["type", "code"] {
            assert!(error[field].is_string(), "{error}");
        }
        assert!(error["param"].is_string() || error["param"].is_null(), "{error}");
        error["message"].as_str().unwrap().to_owned()
    }
}

impl Server {
    /// With a store of the first `photos`; without one for 0.
    fn new(limits: Limits, photos_in_store: usize) -> Self {
        let server = Self::unloaded(limits, None);
        server.load(photos_in_store);
        server
    }

    /// Before the model is there.
    fn unloaded(limits: Limits, key: Option<&str>) -> Self {
        let key = key.map(|key| ApiKey::new(key).unwrap());
        let access = Access::new(key, "127.0.0.1:8080".parse().unwrap(), vec![]);
        let app = App::new(limits, access, None);
        Self {
            router: router(app.clone()),
            app,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn load(&self, photos_in_store: usize) {
        self.load_files(&photos(photos_in_store));
    }

    fn load_files(&self, files: &[PathBuf]) {
        let model = model();
        let store = (!files.is_empty()).then(|| Arc::new(store(self.dir.path(), &model, files)) as Arc<dyn Store>);
        let loaded = Loaded {
            model,
            path: model_path().to_owned(),
            id: "tiny".to_owned(),
            store,
            chat: None,
        };
        self.app
            .serve(Engine::start(loaded, &self.app.limits, &self.app.metrics).unwrap());
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_raw(path, "application/json", body.to_string().into()).await
    }

    async fn post_raw(&self, path: &str, kind: &str, body: Bytes) -> Answer {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_LENGTH, body.len());
        self.send(request.body(body.into()).unwrap()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(engine) = self.app.engine() {
            engine.queue.close();
        }
    }
}

/// Runs a test.
fn run<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .enable_time()
        .enable_io()
        .build()
        .unwrap()
        .block_on(test)
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes))
}

/// A form with files and fields.
fn form(files: &[(&str, &[u8])], fields: &[(&str, &str)]) -> (String, Bytes) {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head = format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"a.jpg\"\r\n\r\n");
        body.extend([head.as_bytes(), bytes, b"\r\n"].concat());
    }
    for (name, value) in fields {
        body.extend(format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    body.extend(b"--edge--\r\n");
    ("multipart/form-data; boundary=edge".to_owned(), body.into())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    assert_eq!(a.len(), b.len());
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The rows of an answer of `/v1/embeddings`, whatever way they are written in.
fn rows(answer: &Value) -> Vec<Vec<f32>> {
    let row = |(at, row): (usize, &Value)| {
        assert_eq!((&row["index"], &row["object"]), (&at.into(), &"embedding".into()));
        match &row["embedding"] {
            Value::String(text) => floats(text),
            list => serde_json::from_value(list.clone()).unwrap(),
        }
    };
    answer["data"].as_array().unwrap().iter().enumerate().map(row).collect()
}

fn floats(text: &str) -> Vec<f32> {
    let bytes = STANDARD.decode(text).unwrap();
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect()
}
