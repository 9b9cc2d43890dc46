//! To which widths a model's embeddings may be cut (Matryoshka representation learning, Kusupati et al. 2022).

use std::path::Path;

use serde::Deserialize;

/// A description is small; more than this is not one.
const MAX_BYTES: u64 = 4 << 20;

/// What the folder of a model says in its `config.json`, under the names that vLLM reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Nested {
    #[serde(default, rename = "matryoshka_dimensions")]
    widths: Vec<usize>,
    #[serde(default, rename = "is_matryoshka")]
    any: bool,
}

impl Nested {
    /// No folder, no file, or nothing said in it: embeddings are not cut.
    pub(crate) fn of(path: &Path) -> Self {
        let file = path.join("config.json");
        let small = std::fs::metadata(&file).is_ok_and(|meta| meta.len() <= MAX_BYTES);
        let text = small.then(|| std::fs::read_to_string(&file).ok()).flatten();
        text.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Whether the first `width` of `dim` values are an embedding too.
    pub(crate) fn allows(&self, width: usize, dim: usize) -> bool {
        let listed = self.widths.contains(&width) || self.widths.is_empty() && self.any;
        (1..=dim).contains(&width) && listed
    }

    /// For messages; empty when nothing is allowed.
    pub(crate) fn list(&self, dim: usize) -> String {
        if self.widths.is_empty() && self.any {
            return format!("1 to {dim}");
        }
        let widths = self.widths.iter().filter(|&&width| self.allows(width, dim));
        widths.map(usize::to_string).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_model_was_trained_for_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let says = |text: &str| {
            std::fs::write(dir.path().join("config.json"), text).unwrap();
            let nested = Nested::of(dir.path());
            ([4, 8, 12, 16].map(|width| nested.allows(width, 12)), nested.list(12))
        };
        assert_eq!(says(r#"{"model_type": "clip"}"#), ([false; 4], String::new()));
        assert_eq!(
            says(r#"{"matryoshka_dimensions": [4, 12, 16]}"#),
            ([true, false, true, false], "4, 12".to_owned())
        );
        assert_eq!(
            says(r#"{"is_matryoshka": true}"#),
            ([true, true, true, false], "1 to 12".to_owned())
        );
        assert_eq!(says("not json"), ([false; 4], String::new()));
        assert_eq!(Nested::of(&dir.path().join("none")), Nested::default());
    }
}
