//! The shell of Bifocal's pages: one file that needs no other, no network and no library.
//!
//! Texts are escaped wherever they come from, and the page's own policy forbids every request.

/// The page with gaps `{{…}}`: a header, a button for light and dark, and the style that all pages share.
const SHELL: &str = include_str!("shell.html");

/// A whole page around `main`, which is markup; `title` is text; `style` and `script` are added to those that all pages have.
#[must_use]
pub fn whole(title: &str, style: &str, main: &str, script: &str) -> String {
    let title = escape(title);
    let mut out = String::with_capacity(SHELL.len() + main.len() + style.len() + script.len() + 2 * title.len());
    let mut rest = SHELL;
    // filled in one pass: what is put in is never looked at again
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(match name {
            "title" => &title,
            "style" => style,
            "script" => script,
            _ => main,
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Makes text of what might be markup.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // what a terminal or a browser might act on
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            // marks that turn the direction of what follows
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A PNG or a JPEG as a `data:` address; nothing else is certainly a picture without scripts.
#[must_use]
pub fn data_uri(bytes: &[u8]) -> Option<String> {
    mime(bytes).map(|mime| format!("data:{mime};base64,{}", base64(bytes)))
}

fn mime(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        _ => None,
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .enumerate()
            .fold(0, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { digit as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn gaps_are_filled_and_what_fills_them_is_left_alone() {
        let html = whole("{{main}} & {{title}}", "b {}", "<p>{{script}}</p>", "f()");
        assert_eq!(html.matches("{{main}} &amp; {{title}}").count(), 2);
        assert!(html.contains("<p>{{script}}</p>") && html.contains("b {}</style>") && html.contains("f()</script>"));
    }

    #[test]
    fn only_pictures_become_addresses() {
        assert!(data_uri(b"<svg onload=alert(1)>").is_none());
        assert!(data_uri(&[0xff, 0xd8, 0xff, 0]).is_some_and(|uri| uri.starts_with("data:image/jpeg;base64,/9j/")));
    }
}
