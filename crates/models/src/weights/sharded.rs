//! A model in several files, as `model.safetensors.index.json` or `pytorch_model.bin.index.json` lists them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::file::DataFile;
use super::{HostTensor, StoredRows, TensorSource, WeightsError, open};

/// The largest index of shards.
const MAX_INDEX: u64 = 64 << 20;
/// The largest number of shards.
const MAX_SHARDS: usize = 4096;

/// A model whose tensors are spread over several files. Headers are read when it is opened, tensors when they are asked for.
pub struct Sharded {
    index: PathBuf,
    shards: Vec<Box<dyn TensorSource>>,
    /// Tensor → position in `shards`.
    place: BTreeMap<String, usize>,
}

impl fmt::Debug for Sharded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sharded({}, {} tensors)", self.index.display(), self.place.len())
    }
}

impl Sharded {
    /// Opens an index and all files that it names; they must lie beside it, and index and files must tell of the same tensors.
    ///
    /// # Errors
    /// [`WeightsError`] if the index is damaged or leads out of its folder, a shard is missing or damaged, and if a tensor is in
    /// none or several of them.
    pub fn open(index: &Path) -> Result<Self, WeightsError> {
        let listed = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let names: BTreeSet<&str> = listed.values().map(String::as_str).collect();
        if names.len() > MAX_SHARDS {
            return Err(WeightsError::Limit {
                path: index.to_owned(),
                place: "the number of shards".into(),
                value: names.len() as u64,
                limit: MAX_SHARDS as u64,
            });
        }
        let fault =
            |tensor: &str, detail: String| Err(WeightsError::malformed(index, format!("tensor \"{tensor}\""), detail));
        let mut shards = Vec::new();
        let mut place = BTreeMap::new();
        for (number, file) in names.into_iter().enumerate() {
            let shard = open::single(&folder.join(file))?;
            for tensor in shard.names() {
                match listed.get(&tensor) {
                    Some(right) if right == file => {}
                    Some(other) => return fault(&tensor, format!("it is in {file}, but the index says in {other}")),
                    None => return fault(&tensor, format!("it is in {file}, but the index does not list it")),
                }
                place.insert(tensor, number);
            }
            shards.push(shard);
        }
        if let Some((tensor, file)) = listed.iter().find(|(tensor, _)| !place.contains_key(*tensor)) {
            return fault(
                tensor,
                format!("the index says that it is in {file}, which does not have it"),
            );
        }
        Ok(Self {
            index: index.to_owned(),
            shards,
            place,
        })
    }

    fn shard(&self, name: &str) -> Result<&dyn TensorSource, WeightsError> {
        match self.place.get(name) {
            Some(&shard) => Ok(&*self.shards[shard]),
            None => Err(WeightsError::missing(
                &self.index,
                name,
                self.place.keys().map(String::as_str),
            )),
        }
    }
}

impl TensorSource for Sharded {
    fn names(&self) -> Vec<String> {
        self.place.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shard(name).ok()?.shape(name)
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.shard(name)?.load(name)
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        self.shard(name)?.stored_rows(name)
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.shard(name).ok()?.stored_as(name)
    }

    fn path(&self) -> &Path {
        &self.index
    }
}

/// Tensor → file; a tensor that is listed twice is an error, which a plain map would hide.
struct Listed(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let mut listed = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    match listed.entry(tensor) {
                        Entry::Vacant(place) => place.insert(file),
                        Entry::Occupied(place) => {
                            let message = format!("the tensor \"{}\" is listed twice", place.key());
                            return Err(serde::de::Error::custom(message));
                        }
                    };
                }
                Ok(Listed(listed))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// The files that an index names, without opening them: tensor → file name.
pub(super) fn read_index(index: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Listed,
    }
    let file = DataFile::open(index)?;
    if file.len() > MAX_INDEX {
        return Err(WeightsError::Limit {
            path: index.to_owned(),
            place: "the size of the index".into(),
            value: file.len(),
            limit: MAX_INDEX,
        });
    }
    let text = file.read(0, file.len(), "the index")?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|e| WeightsError::malformed(index, "the index of shards", e.to_string()))?;
    for (tensor, name) in &parsed.weight_map.0 {
        // a name like "../../x" would read files that do not belong to the model
        let mut parts = Path::new(name).components();
        let plain =
            matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name.as_str());
        if !plain {
            return Err(WeightsError::malformed(
                index,
                format!("tensor \"{tensor}\""),
                format!("its file \"{name}\" is not in the folder of the index"),
            ));
        }
    }
    Ok(parsed.weight_map.0)
}
