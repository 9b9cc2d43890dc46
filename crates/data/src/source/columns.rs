//! What a column or a field holds, by its name: people call the same things many names.

/// Names of the picture's column, the surest first.
const IMAGE: [&str; 19] = [
    "image",
    "filepath",
    "file_path",
    "file_name",
    "filename",
    "image_path",
    "imagepath",
    "image_file",
    "image_name",
    "image_filename",
    "img",
    "img_path",
    "picture",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "path",
    "file",
];
/// Names of a column of captions that say nothing more about them.
const CAPTION: [&str; 10] = [
    "caption",
    "captions",
    "text",
    "texts",
    "txt",
    "title",
    "titles",
    "sentence",
    "sentences",
    "description",
];
/// Names of the class's column, the surest first.
const LABEL: [&str; 4] = ["label", "class_name", "classname", "cls"];
/// Endings of columns that are about captions, and none.
const ABOUT: [&str; 9] = [
    "_id", "_ids", "_url", "_len", "_length", "_count", "_score", "_hash", "_key",
];
/// ISO 639-1, but for `id`, which in tables is a number and not Indonesian, and the longer codes of multilingual caption sets.
const LANGUAGES: &str = "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee \
                         el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia ie ig ii ik io is it \
                         iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt \
                         my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl \
                         sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo \
                         za zh zu fil quz yue";

/// The group of captions of which no more is known.
pub(super) const UNNAMED: &str = "caption";

/// What a column is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The picture; a lower number is surer.
    Image(usize),
    /// Captions of a group.
    Captions(String),
    /// Captions of the language that the column is called.
    Language(String),
    /// The class; a lower number is surer.
    Label(usize),
    /// Nothing that is used.
    Other,
}

pub(super) fn role(name: &str) -> Role {
    let name = name.trim();
    let plain = name.to_lowercase().replace([' ', '-'], "_");
    let place = |names: &[&str]| names.iter().position(|n| *n == plain);
    if let Some(place) = place(&IMAGE) {
        return Role::Image(place);
    }
    if let Some(place) = place(&LABEL) {
        return Role::Label(place);
    }
    if place(&CAPTION).is_some() {
        return Role::Captions(UNNAMED.to_owned());
    }
    if plain.contains("caption") && !ABOUT.iter().any(|end| plain.ends_with(end)) {
        return Role::Captions(name.to_owned());
    }
    let mut parts = name.split(['-', '_']);
    let language = parts
        .next()
        .is_some_and(|l| LANGUAGES.split_whitespace().any(|k| k == l));
    let region = |part: &str| (2..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    if language && parts.clone().count() <= 2 && parts.all(region) {
        return Role::Language(name.to_owned());
    }
    Role::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_use_them() {
        for name in ["image", "Image Path", "filepath", "file_name", "file-name", " jpg "] {
            assert!(matches!(role(name), Role::Image(_)), "{name}");
        }
        for name in ["caption", "text", "Title", "captions", "TEXT"] {
            assert_eq!(role(name), Role::Captions(UNNAMED.into()), "{name}");
        }
        for name in [
            "raw_caption",
            "shortSV_captions",
            "longSV_captions",
            "short_caption",
            "Caption (long)",
        ] {
            assert_eq!(role(name), Role::Captions(name.into()));
        }
        for name in ["en", "de", "zh-Hans", "pt_BR", "fil"] {
            assert_eq!(role(name), Role::Language(name.into()));
        }
        for name in [
            "id",
            "caption_id",
            "url",
            "width",
            "en_score_total",
            "sha256",
            "",
            "embedding",
            "no_of_words",
        ] {
            assert_eq!(role(name), Role::Other, "{name}");
        }
        assert_eq!((role("image"), role("label")), (Role::Image(0), Role::Label(0)));
    }
}
