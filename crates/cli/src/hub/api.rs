//! What a hub answers.

use std::io::Read;
use std::path::{Component, Path};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bifocal_models::hub::{HubName, home_of_environment};
use serde::Deserialize;

/// An answer about a repository is small even with thousands of files.
const MAX_ANSWER: u64 = 64 << 20;
/// How long a connection, and the beginning of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub and who asks it.
pub struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
pub struct HubModel {
    pub commit: String,
    pub files: Vec<HubFile>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct HubFile {
    pub name: String,
    pub bytes: u64,
    /// What its content must hash to, and its name in the cache.
    pub hash: Hash,
}

/// The hash of a file: of the content for large files, git's of a blob for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    Sha256(String),
    Git(String),
}

impl Hash {
    /// Hexadecimal.
    pub fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }
}

impl HubFile {
    #[cfg(test)]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bytes: 0,
            hash: Hash::Git("0".repeat(40)),
        }
    }
}

/// What came of a question about a model.
pub enum Answer {
    Model(HubModel),
    /// There was no answer, or not from the hub itself: what was fetched before may serve.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    pub fn of_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let kept = || {
            let file = home_of_environment()?.join("token");
            let token = std::fs::read_to_string(file).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        // redirects lead to other hosts; ureq sends the token to the first one only
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .http_status_as_error(false)
            .user_agent(concat!("bifocal/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: set("HF_TOKEN").or_else(kept),
        }
    }

    /// An answer to GET, from byte `from` on.
    pub fn get(&self, path: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// What files a model has.
    pub fn model(&self, name: &HubName) -> Result<Answer> {
        let revision = name.revision.replace('/', "%2F");
        let path = format!("api/models/{}/revision/{revision}?blobs=true", name.repository);
        let mut response = match self.get(&path, 0) {
            Ok(response) => response,
            Err(error) => return Ok(Answer::Unreachable(error.to_string())),
        };
        match response.status().as_u16() {
            200 => {}
            status @ 500.. => return Ok(Answer::Unreachable(format!("it answers {status}"))),
            status => bail!("{name}: {}", refusal(status)),
        }
        let mut text = Vec::new();
        let body = response.body_mut().as_reader();
        if let Err(error) = body.take(MAX_ANSWER).read_to_end(&mut text) {
            return Ok(Answer::Unreachable(error.to_string()));
        }
        let info: Info = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{name}: {} does not answer as a hub does; check HF_ENDPOINT",
                self.endpoint
            )
        })?;
        checked(info).map(Answer::Model).with_context(|| name.to_string())
    }
}

/// What a status means for somebody who wants a model.
pub fn refusal(status: u16) -> String {
    match status {
        401 | 403 => format!(
            "the hub refuses it ({status}); it may be gated or misspelt: accept its terms on its page and set HF_TOKEN"
        ),
        404 => "the hub has no such model or revision; check the spelling".to_owned(),
        429 => "the hub asks for patience (429): try again later, or set HF_TOKEN".to_owned(),
        other => format!("the hub answers {other}"),
    }
}

/// Names become paths and hashes become file names: both must be what they say.
fn checked(info: Info) -> Result<HubModel> {
    let hexadecimal = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hexadecimal(&info.sha, 40) {
        bail!("the hub names a commit {:?}, which is none", info.sha);
    }
    let mut files = Vec::new();
    for sibling in info.siblings {
        let name = sibling.rfilename;
        let mut parts = Path::new(&name).components();
        if name.is_empty() || name.contains('\\') || !parts.all(|part| matches!(part, Component::Normal(_))) {
            bail!("the hub names a file {name:?}, which leads out of its folder");
        }
        let (bytes, hash) = match (sibling.lfs, sibling.blob_id, sibling.size) {
            (Some(lfs), ..) if hexadecimal(&lfs.sha256, 64) => (lfs.size, Hash::Sha256(lfs.sha256)),
            (None, Some(id), Some(size)) if hexadecimal(&id, 40) => (size, Hash::Git(id)),
            _ => bail!("the hub gives no size and hash for {name:?}"),
        };
        files.push(HubFile { name, bytes, hash });
    }
    Ok(HubModel {
        commit: info.sha,
        files,
    })
}
