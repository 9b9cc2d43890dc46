//! Prompt templates: named sets, and sets read from a file.
//!
//! A template holds `{}` or `{c}` where the class name goes. The named sets are data (`data/templates.json`, which names its
//! source); scores made with different sets are not comparable, so a report names the set.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::error::EvalError;

/// Templates that a set may hold; the largest published one has 80.
const MAX_TEMPLATES: usize = 1_000;
/// Bytes of a template file.
const MAX_FILE: u64 = 1 << 20;

/// A prompt with one or more places for the class name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The text before, between and after the places: always at least two parts.
    parts: Vec<String>,
}

impl Template {
    /// Reads a template; `number` (from 1) is for the message.
    ///
    /// # Errors
    /// A template without a place for the class name.
    pub fn parse(text: &str, number: usize) -> Result<Self, EvalError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((at, length)) = next_place(rest) {
            parts.push(rest[..at].to_owned());
            rest = &rest[at + length..];
        }
        if parts.is_empty() {
            let text = text.chars().take(60).collect();
            return Err(EvalError::Template {
                number,
                text,
                why: "write {} or {c} where the class name goes",
            });
        }
        parts.push(rest.to_owned());
        Ok(Self { parts })
    }

    /// The prompt for a class. Braces in the name are not looked at.
    pub fn fill(&self, class: &str) -> String {
        self.parts.join(class)
    }
}

/// The first `{}` or `{c}`: where it is and how long.
fn next_place(text: &str) -> Option<(usize, usize)> {
    ["{}", "{c}"]
        .iter()
        .filter_map(|p| text.find(p).map(|at| (at, p.len())))
        .min()
}

/// Templates that are used together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSet {
    /// What a report calls it.
    pub name: String,
    /// The templates, at least one.
    pub templates: Vec<Template>,
}

impl TemplateSet {
    /// Builds a set from texts.
    ///
    /// # Errors
    /// No template or more than a thousand; a template without a place for the class name.
    pub fn new<S: AsRef<str>>(name: &str, texts: &[S]) -> Result<Self, EvalError> {
        if texts.is_empty() {
            return Err(EvalError::Empty {
                what: "the template set",
            });
        }
        if texts.len() > MAX_TEMPLATES {
            let value = texts.len() as f64;
            return Err(EvalError::Parameter {
                what: "the number of templates",
                value,
                expected: "at most 1000 are read",
            });
        }
        let templates = texts
            .iter()
            .enumerate()
            .map(|(i, t)| Template::parse(t.as_ref(), i + 1))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            templates,
        })
    }

    /// A named set, for example `imagenet` (80 prompts), `simple` (7) or `single` (1).
    pub fn named(name: &str) -> Option<Self> {
        let set = library().into_iter().find(|s| s.name == name)?;
        Self::new(&set.name, &set.templates).ok()
    }

    /// The names that [`TemplateSet::named`] knows, in their order.
    pub fn names() -> Vec<String> {
        library().into_iter().map(|s| s.name).collect()
    }

    /// A set by name, or else from the file of that path.
    ///
    /// # Errors
    /// Neither a known name nor a file, and those of [`TemplateSet::read`].
    pub fn resolve(name_or_path: &str) -> Result<Self, EvalError> {
        if let Some(set) = Self::named(name_or_path) {
            return Ok(set);
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            return Err(EvalError::UnknownTemplates {
                name: name_or_path.to_owned(),
                known: Self::names().join(", "),
            });
        }
        Self::read(path)
    }

    /// Reads a file: a JSON list of strings when its name ends in `.json`, else one template a line (empty lines are skipped).
    ///
    /// # Errors
    /// A file that cannot be read, is larger than 1 MiB, is not UTF-8 or not such a list; those of [`TemplateSet::new`].
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let fail = |why: String| EvalError::TemplateFile {
            path: path.to_owned(),
            why,
        };
        let file = std::fs::File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| fail(format!("cannot be read: {e}")))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(fail("is larger than 1 MiB; is it a list of templates?".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|e| fail(format!("is not UTF-8: {e}; save it as UTF-8")))?;
        let texts: Vec<String> = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            serde_json::from_str(&text).map_err(|e| fail(format!("is not a JSON list of strings: {e}")))?
        } else {
            text.trim_start_matches('\u{feff}')
                .lines()
                .filter(|l| !l.trim().is_empty())
                .map(str::to_owned)
                .collect()
        };
        Self::new(&path.display().to_string(), &texts)
    }

    /// All prompts of all classes: the prompts of the first class first, as [`crate::class_weights`] wants them.
    pub fn prompts<S: AsRef<str>>(&self, classes: &[S]) -> Vec<String> {
        classes
            .iter()
            .flat_map(|c| self.templates.iter().map(|t| t.fill(c.as_ref())))
            .collect()
    }
}

#[derive(Deserialize)]
struct Library {
    sets: Vec<NamedTexts>,
}

#[derive(Deserialize)]
struct NamedTexts {
    name: String,
    templates: Vec<String>,
}

fn library() -> Vec<NamedTexts> {
    // The file is part of the program and a test reads every set of it.
    serde_json::from_str::<Library>(include_str!("../data/templates.json"))
        .map(|l| l.sets)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_80_imagenet_prompts_are_those_of_the_factorised_list() {
        let mut expected = BTreeSet::new();
        for d in ["a", "the"] {
            for adjective in [
                "bad",
                "low resolution",
                "bright",
                "close-up",
                "black and white",
                "cropped",
                "blurry",
                "good",
                "jpeg corrupted",
                "pixelated",
                "dark",
            ] {
                expected.insert(format!("a {adjective} photo of {d} X."));
            }
            for adjective in [
                "hard to see",
                "clean",
                "dirty",
                "cool",
                "large",
                "nice",
                "weird",
                "small",
            ] {
                expected.insert(format!("a photo of {d} {adjective} X."));
            }
            for noun in [
                "sculpture",
                "rendering",
                "tattoo",
                "drawing",
                "painting",
                "doodle",
                "sketch",
                "rendition",
            ] {
                expected.insert(format!("a {noun} of {d} X."));
            }
            for noun in ["graffiti", "art", "itap"] {
                expected.insert(format!("{noun} of {d} X."));
            }
            for kind in ["embroidered", "plastic", "origami", "toy", "cartoon", "plushie"] {
                expected.insert(format!("{d} {kind} X."));
            }
            expected.insert(format!("{d} X in a video game."));
            expected.insert(format!("a photo of {d} X."));
        }
        for which in ["a photo of many", "a photo of one", "a photo of my", "itap of my"] {
            expected.insert(format!("{which} X."));
        }
        let prompts = TemplateSet::named("imagenet").unwrap().prompts(&["X"]);
        assert_eq!(prompts.len(), 80);
        assert_eq!(prompts.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn every_named_set_has_its_published_size_and_simple_is_part_of_imagenet() {
        let sizes: Vec<(String, usize)> = TemplateSet::names()
            .into_iter()
            .map(|n| (n.clone(), TemplateSet::named(&n).unwrap().templates.len()))
            .collect();
        let sizes: Vec<(&str, usize)> = sizes.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        assert_eq!(
            sizes,
            [
                ("single", 1),
                ("simple", 7),
                ("imagenet", 80),
                ("cifar", 18),
                ("food101", 1),
                ("sun397", 2),
                ("cars", 8),
                ("aircraft", 2),
                ("dtd", 8),
                ("pets", 1),
                ("caltech101", 34),
                ("flowers", 1),
                ("imagenet-ar", 55),
                ("imagenet-zh", 80),
                ("imagenet-it", 49),
                ("imagenet-ja", 37)
            ]
        );
        let all: BTreeSet<String> = TemplateSet::named("imagenet")
            .unwrap()
            .prompts(&["X"])
            .into_iter()
            .collect();
        assert!(
            TemplateSet::named("simple")
                .unwrap()
                .prompts(&["X"])
                .iter()
                .all(|p| all.contains(p))
        );
    }

    #[test]
    fn a_name_with_braces_is_not_filled_again() {
        let template = Template::parse("a {} and another {c}, {x}", 1).unwrap();
        assert_eq!(template.fill("{}"), "a {} and another {}, {x}");
        assert!(matches!(
            Template::parse("no place", 3),
            Err(EvalError::Template { number: 3, .. })
        ));
    }

    #[test]
    fn prompts_go_class_by_class() {
        let set = TemplateSet::new("two", &["a {}", "the {}"]).unwrap();
        assert_eq!(set.prompts(&["cat", "dog"]), ["a cat", "the cat", "a dog", "the dog"]);
    }

    #[test]
    fn sets_are_read_from_lines_and_from_json() {
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("mine.txt");
        std::fs::write(&lines, "\u{feff}ein Foto von {}\r\n\n \nein Bild: {c}\n").unwrap();
        let set = TemplateSet::resolve(lines.to_str().unwrap()).unwrap();
        assert_eq!(set.prompts(&["Hund"]), ["ein Foto von Hund", "ein Bild: Hund"]);
        let json = dir.path().join("mine.json");
        std::fs::write(&json, r#"["{} it is"]"#).unwrap();
        assert_eq!(TemplateSet::read(&json).unwrap().prompts(&["a"]), ["a it is"]);
        std::fs::write(&json, r#"{"a": 1}"#).unwrap();
        assert!(matches!(TemplateSet::read(&json), Err(EvalError::TemplateFile { .. })));
        std::fs::write(&lines, [0xff, 0xfe, b'{', b'}']).unwrap();
        assert!(TemplateSet::read(&lines).unwrap_err().to_string().contains("UTF-8"));
        std::fs::write(&lines, vec![b'{'; MAX_FILE as usize + 1]).unwrap();
        assert!(TemplateSet::read(&lines).unwrap_err().to_string().contains("1 MiB"));
        std::fs::write(&lines, "\n").unwrap();
        assert!(matches!(TemplateSet::read(&lines), Err(EvalError::Empty { .. })));
        let unknown = TemplateSet::resolve("imagnet").unwrap_err().to_string();
        assert!(unknown.contains("imagenet") && unknown.contains("imagnet"), "{unknown}");
    }
}
