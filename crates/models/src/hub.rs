//! Models by their name on a hub: `hf:org/name@revision`, and the cache in which the hub's own client keeps them.
//!
//! ```text
//! <cache>/models--org--name/
//!   blobs/<hash>                    contents
//!   refs/<revision>                 the commit that a branch or tag was last seen at
//!   snapshots/<commit>/<file>       links into blobs/
//! ```
//!
//! Nothing here uses the network. Source: the documentation of `huggingface_hub`, "Understand caching".

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// What a name of the hub begins with.
pub const SCHEME: &str = "hf:";
/// The longest name; the hub allows 96 characters for each part.
const MAX_NAME: usize = 200;

/// A model on a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `org/name`, or `name` for a few old models.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

/// A text that begins with `hf:` and names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no model of the hub; write hf:organisation/name, or hf:organisation/name@revision")]
pub struct HubNameError(String);

impl HubName {
    /// Whether a path is meant as a name of the hub.
    pub fn is_meant(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with(SCHEME))
    }
}

impl FromStr for HubName {
    type Err = HubNameError;

    fn from_str(text: &str) -> Result<Self, HubNameError> {
        let wrong = || HubNameError(text.to_owned());
        let name = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.chars().all(known) && !part.starts_with('.') && !part.contains("--")
        };
        let parts: Vec<&str> = repository.split('/').collect();
        // a revision may be a path ("refs/pr/1"), which must not lead elsewhere
        let below = revision.split('/').all(plain);
        if parts.len() > 2 || !parts.iter().all(|p| plain(p)) || !below || text.len() > MAX_NAME {
            return Err(wrong());
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// The folder in which the hub's client keeps its downloads.
#[derive(Clone, Debug)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// As the variables say: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `huggingface` in `XDG_CACHE_HOME` or `~/.cache`.
    /// `None` when there is no home either.
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        if let Some(root) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
            return Some(Self { root: root.into() });
        }
        home(variable).map(|home| Self { root: home.join("hub") })
    }

    /// The folder of a model, whether it is there or not.
    pub fn folder(&self, name: &HubName) -> PathBuf {
        self.root
            .join(format!("models--{}", name.repository.replace('/', "--")))
    }

    /// The files of a model, if its revision was fetched.
    pub fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let folder = self.folder(name);
        let commit = match std::fs::read_to_string(folder.join("refs").join(&name.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => name.revision.clone(),
        };
        let mut parts = Path::new(&commit).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let snapshot = folder.join("snapshots").join(&commit);
        (plain && snapshot.is_dir()).then_some(snapshot)
    }
}

/// The folder of the hub's client: its cache and its token are in it.
pub fn home_of_environment() -> Option<PathBuf> {
    home(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn home(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(home) = variable("HF_HOME") {
        return Some(home.into());
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.map(|cache| cache.join("huggingface"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_leads_elsewhere_is_refused() {
        let name: HubName = "hf:openai/clip-vit-base-patch32".parse().unwrap();
        assert_eq!(
            (name.repository.as_str(), name.revision.as_str()),
            ("openai/clip-vit-base-patch32", "main")
        );
        let name: HubName = "hf:org/name@refs/pr/3".parse().unwrap();
        assert_eq!(
            (name.revision.as_str(), name.to_string()),
            ("refs/pr/3", "hf:org/name@refs/pr/3".to_owned())
        );
        for wrong in [
            "hf:",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@../../x",
            "hf:a/b@/x",
            "hf:a b",
            "hf:a--b",
            "a/b",
            "hf:a\\b",
        ] {
            assert!(wrong.parse::<HubName>().is_err(), "{wrong}");
        }
        assert!(format!("hf:a/{}", "b".repeat(300)).parse::<HubName>().is_err());
    }

    #[test]
    fn the_cache_is_where_the_hubs_client_has_it() {
        let of = |pairs: &[(&str, &str)]| {
            let find = |name: &str| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, value)| OsString::from(value))
            };
            HubCache::of(find).map(|cache| cache.root.display().to_string())
        };
        assert_eq!(of(&[("HOME", "/h")]).unwrap(), "/h/.cache/huggingface/hub");
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(),
            "/x/huggingface/hub"
        );
        assert_eq!(of(&[("HOME", "/h"), ("HF_HOME", "/f")]).unwrap(), "/f/hub");
        assert_eq!(of(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).unwrap(), "/c");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache {
            root: dir.path().to_owned(),
        };
        let name: HubName = "hf:org/name".parse().unwrap();
        assert_eq!(cache.snapshot(&name), None);
        let folder = dir.path().join("models--org--name");
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::create_dir_all(folder.join("snapshots/abc")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc\n").unwrap();
        let found = folder.join("snapshots/abc");
        assert_eq!(cache.snapshot(&name), Some(found.clone()));
        assert_eq!(cache.snapshot(&"hf:org/name@abc".parse().unwrap()), Some(found));
        assert_eq!(cache.snapshot(&"hf:org/name@def".parse().unwrap()), None);
        std::fs::write(folder.join("refs/main"), "../../..").unwrap();
        assert_eq!(cache.snapshot(&name), None, "a commit is no path");
    }
}
