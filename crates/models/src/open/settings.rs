//! Settings files of published models, read with a limit.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::OpenError;

/// No settings file of a model is larger.
const MAX_BYTES: u64 = 16 << 20;

/// A JSON object and the file that it came from. What is read is taken out, so that at the end [`Settings::refuse_rest`] can
/// tell what was not understood.
pub(super) struct Settings {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Settings {
    /// Reads a file; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        match bytes(path)? {
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(map) => Ok(Some(Self {
                    path: path.to_owned(),
                    map,
                })),
                Err(error) => Err(OpenError::malformed(path, error)),
            },
            None => Ok(None),
        }
    }

    /// An empty object, all of whose settings have their default.
    pub fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            map: Map::new(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a setting is there.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether no setting is left.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// An object inside; empty when it is missing.
    pub fn object(&mut self, key: &str) -> Result<Self, OpenError> {
        Ok(Self {
            path: self.path.clone(),
            map: self.take(key)?.unwrap_or_default(),
        })
    }

    /// A setting; `None` when it is missing or null.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, OpenError> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| OpenError::malformed(&self.path, format!("\"{key}\": {error}"))),
        }
    }

    /// A setting that must be there.
    pub fn require<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, OpenError> {
        let missing = OpenError::malformed(&self.path, format!("\"{key}\" is missing"));
        self.take(key)?.ok_or(missing)
    }

    /// Refuses a setting that has another value than the only one implemented.
    pub fn only<T: DeserializeOwned + PartialEq>(&mut self, key: &str, value: T) -> Result<(), OpenError> {
        let text = self.map.get(key).map(Value::to_string).unwrap_or_default();
        match self.take::<T>(key)? {
            Some(found) if found != value => Err(self.unsupported(key, &text)),
            _ => Ok(()),
        }
    }

    /// Refuses settings that nothing has read, unless they are null, false or in `harmless`.
    pub fn refuse_rest(&self, harmless: &[&str]) -> Result<(), OpenError> {
        let unknown = self.map.iter().find(|(key, value)| {
            !matches!(value, Value::Null | Value::Bool(false)) && !harmless.contains(&key.as_str())
        });
        match unknown {
            Some((key, value)) => Err(self.unsupported(key, &value.to_string())),
            None => Ok(()),
        }
    }

    fn unsupported(&self, key: &str, value: &str) -> OpenError {
        let short: String = value.chars().take(60).collect();
        OpenError::unsupported(
            &self.path,
            format!("\"{key}\": {short}"),
            "take a model that does without it, or ask for it in an issue",
        )
    }
}

/// A settings file's content; `None` when there is none.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let io = |error| OpenError::io(path, error);
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(OpenError::malformed(
            path,
            format!("it has more than {MAX_BYTES} bytes"),
        ));
    }
    Ok(Some(bytes))
}
