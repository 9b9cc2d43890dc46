//! Pictures that are written as text.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Answer, ApiError};
use crate::input::Picture;

/// Both ways of ending are in use.
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// A data URI, an address, or (if `bare`) base64 without anything before it; `param` names the field in messages.
pub(crate) fn picture(text: &str, bare: bool, param: &str) -> Answer<Picture> {
    let begins = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    };
    if begins("data:") {
        return data_uri(&text["data:".len()..], param);
    }
    if begins("http://") || begins("https://") {
        return Ok(Picture::Url(text.to_owned()));
    }
    if bare {
        return base64(text, param);
    }
    let shown: String = text.chars().take(30).collect();
    let message =
        format!("a picture must be a data URI (data:image/jpeg;base64,…) or a URL, this begins with {shown:?}");
    Err(ApiError::field(param, message))
}

/// What comes after `data:`. The media type is not looked at: the content says what it is.
fn data_uri(rest: &str, param: &str) -> Answer<Picture> {
    let Some((head, content)) = rest.split_once(',') else {
        return Err(ApiError::field(
            param,
            "a data URI has a comma before its content: data:image/jpeg;base64,…",
        ));
    };
    let encoded = head
        .rsplit(';')
        .next()
        .is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    if !encoded {
        return Err(ApiError::field(
            param,
            "only data URIs in base64 are read: data:image/jpeg;base64,…",
        ));
    }
    base64(content, param)
}

/// Standard or URL-safe base64, with or without padding and line breaks.
fn base64(text: &str, param: &str) -> Answer<Picture> {
    let cleaned: String;
    let text = if text.bytes().any(|b| b.is_ascii_whitespace()) {
        cleaned = text.split_ascii_whitespace().collect();
        &cleaned
    } else {
        text
    };
    let engine = if text.bytes().any(|b| b == b'-' || b == b'_') {
        URL_SAFE
    } else {
        STANDARD
    };
    let bytes = engine
        .decode(text)
        .map_err(|e| ApiError::field(param, format!("this is not base64: {e}")))?;
    if bytes.is_empty() {
        return Err(ApiError::field(param, "the picture is empty (0 bytes)"));
    }
    Ok(Picture::Bytes(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str, bare: bool) -> Option<Vec<u8>> {
        match picture(text, bare, "input").ok()? {
            Picture::Bytes(bytes) => Some(bytes.to_vec()),
            Picture::Url(_) => None,
        }
    }

    #[test]
    fn data_uris_as_clients_write_them() {
        for uri in [
            "data:image/png;base64,aGk_",
            "data:image/png;base64,aGk/",
            "DATA:image/png;charset=utf-8;BASE64,aGk/",
            "data:;base64,aGk/",
            "data:image/png;base64,aG\r\nk/",
        ] {
            assert_eq!(bytes(uri, false).as_deref(), Some(&b"hi?"[..]), "{uri}");
        }
        for end in ["aGk", "aGk="] {
            assert_eq!(
                bytes(&format!("data:image/png;base64,{end}"), false).as_deref(),
                Some(&b"hi"[..])
            );
        }
    }

    #[test]
    fn what_is_no_picture_is_refused_with_the_field() {
        for text in [
            "",
            "cat.jpg",
            "file:///etc/passwd",
            "data:",
            "data:image/png;base64",
            "data:image/png,abc",
            "data:image/png;base64,",
            "data:image/png;base64,???",
            "data:image/png;base64,a",
            "ftp://a/b",
            "aGk=",
        ] {
            let error = picture(text, false, "input[3]").unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.param.as_deref()),
                (422, Some("input[3]")),
                "{text}"
            );
        }
        assert_eq!(bytes("aGk=", true).as_deref(), Some(&b"hi"[..]));
        assert!(matches!(picture("HTTPS://a/b", false, "x"), Ok(Picture::Url(_))));
    }
}
