//! Words of captions as the caption benchmarks count them: Penn Treebank tokens in lower case, without punctuation.
//!
//! The published figures come from a Java program (`PTBTokenizer` of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`) and a list of tokens that are
//! dropped after it. [`words`] gives what is left after both, so that quotes and final periods need not be kept right on the way there. What it does:
//!
//! - the longest reading at a place wins: addresses, tags, numbers with their signs, fractions, words with hyphens, words;
//! - `n't`, `'s`, `'m`, `'d`, `'re`, `'ve`, `'ll` are tokens of their own; `cannot`, `gonna`, `wanna`, `gotta`, `gimme`, `lemme`, `'tis`, `'twas` are two;
//! - a period stays with initials and with abbreviations that [`ABBREVIATIONS`] lists; it is dropped everywhere else;
//! - brackets become `-lrb-`, `-rsb-`, … **and stay**: the list of what is dropped has them in upper case, the tokens are in lower case by then;
//! - `½` becomes `1/2`, `£` `#`, `€` `$`, `¢` `cents`, `&amp;` `&`; emoji are dropped.
//!
//! What it does not do: look beyond the caption. The Java program reads all captions as one text and takes the period off a letter (`a sign that
//! reads K.`) if the **next** caption begins with a word like `A`; here a caption's words depend on nothing else.
//! `scripts/fixtures/answers.py` compares with the Java program.

/// Abbreviations whose period belongs to them, in lower case.
const ABBREVIATIONS: &str = "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig bros calif capt cf cie cmdr co \
    col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos \
    jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph \
    plc ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs \
    treas tue tues univ va vs vt wed wis wisc wm wyo";
/// Those that are words in lower case and abbreviations with a capital.
const CAPITALISED: &str = "ark az del ill la mass miss ore pa tex wash";
/// Those that are abbreviations before a number.
const BEFORE_NUMBERS: &str = "art ca fig figs no nos op pp prop";
/// Words that begin a sentence after a letter with a period, so that the period is the end of the sentence before.
const OPENERS: &str = "a about after an as at but he her here however if in it last many more now once one other our she since so some such that the their \
    then there these they this we what when while yet you";
/// Longer tokens are cut, so that no text takes more than linear time.
const LONGEST: usize = 2000;
/// Tokens of two parts, and where they are cut.
const DOUBLES: &[(&str, usize)] = &[
    ("cannot", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("wanna", 3),
    ("gimme", 3),
    ("lemme", 3),
    ("'tis", 2),
    ("'twas", 2),
    ("y'all", 2),
];

/// The words of one caption.
///
/// A word never holds white space.
#[must_use]
pub fn words(caption: &str) -> Vec<String> {
    let mut text: Vec<char> = caption.chars().filter_map(plain).collect();
    for at in 0..text.len() {
        // curly apostrophes become straight ones, but not those of `’90s`
        if text[at] == '\u{2019}' && !text.get(at + 1).is_some_and(|&c| is_digit(c)) {
            text[at] = '\'';
        }
    }
    let (mut at, mut words) = (0, Vec::new());
    while at < text.len() {
        if is_space(text[at]) {
            at += 1;
            continue;
        }
        let end = next(&text, at).clamp(at + 1, text.len());
        emit(&text, at, end, &mut words);
        at = end;
    }
    words
}

/// Python's idea of white space, which splits tokens once more where counts are made.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}' | '\u{200b}' | '\u{feff}')
}

/// Soft hyphens and pictures disappear.
fn plain(c: char) -> Option<char> {
    match c {
        '\u{ad}' => None,
        '\u{1f000}'..='\u{1faff}' => Some(' '),
        _ => Some(c),
    }
}

fn is_letter(c: char) -> bool {
    // marks of scripts that write vowels as marks belong to words
    c.is_alphabetic() || matches!(c, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{963}' | '\u{e31}'..='\u{e4e}')
}

fn is_word(c: char) -> bool {
    is_letter(c) || is_digit(c)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn listed(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|known| known == word)
}

fn run(t: &[char], from: usize, fits: impl Fn(char) -> bool) -> usize {
    from + t[from.min(t.len())..]
        .iter()
        .take(LONGEST)
        .take_while(|&&c| fits(c))
        .count()
}

fn lower(t: &[char]) -> String {
    t.iter().collect::<String>().to_lowercase()
}

/// Where the token that begins at `at` ends.
fn next(t: &[char], at: usize) -> usize {
    let c = t[at];
    let candidates = [
        address(t, at),
        tag(t, at),
        number(t, at),
        fraction(t, at),
        slashed(t, at),
        hyphened(t, at),
        apostrophe(t, at),
        word(t, at),
        symbol(t, at),
    ];
    let longest = candidates.into_iter().max().unwrap_or(at);
    if longest == at {
        return at + 1;
    }
    if is_word(c) {
        return period(t, at, clitic(t, at, longest));
    }
    longest
}

/// Letters and digits, with `.`, `!`, `?` between them where a letter follows at once.
fn word(t: &[char], at: usize) -> usize {
    let mut end = run(t, at, is_word);
    if end == at || !is_letter(t[at]) {
        return end;
    }
    while end + 1 < t.len() && matches!(t[end], '.' | '!' | '?') && is_letter(t[end + 1]) {
        end = run(t, end + 1, is_word);
    }
    end
}

/// A word before `n't` ends early, so that this part is a token of its own.
fn clitic(t: &[char], at: usize, end: usize) -> usize {
    let negated = |end: usize| {
        end + 1 < t.len()
            && end > at + 1
            && t[end] == '\''
            && matches!(t[end + 1], 't' | 'T')
            && matches!(t[end - 1], 'n' | 'N')
            && t.get(end + 2).is_none_or(|&c| !is_word(c))
    };
    if t[at..end].iter().all(|&c| is_word(c)) && negated(end) {
        return end - 1;
    }
    end
}

/// One more character if a period belongs to the word.
fn period(t: &[char], at: usize, end: usize) -> usize {
    if t.get(end) != Some(&'.') {
        return end;
    }
    let letters = &t[at..end];
    let initials = letters
        .iter()
        .enumerate()
        .all(|(i, c)| if i % 2 == 0 { c.is_ascii_alphabetic() } else { *c == '.' });
    if initials && letters.len() % 2 == 1 {
        // `vitamin C. The man`
        let from = run(t, end + 1, is_space);
        let opens = letters.len() == 1
            && t.get(from).is_some_and(|c| c.is_uppercase())
            && t.get(run(t, from, is_word)).is_some_and(|&c| is_space(c))
            && listed(OPENERS, &lower(&t[from..run(t, from, is_word)]));
        return if opens { end } else { end + 1 };
    }
    let word = lower(letters);
    let number_follows = || {
        let from = run(t, end + 1, is_space);
        t.get(from).is_some_and(|&c| is_digit(c))
    };
    let known = word == "ph.d"
        || word == "ed.d"
        || listed(ABBREVIATIONS, &word)
        || listed(CAPITALISED, &word) && letters[0].is_uppercase()
        || listed(BEFORE_NUMBERS, &word) && number_follows();
    // `in the park., near`: inside a sentence the period is read as an abbreviation's
    let inside =
        matches!(t.get(end + 1), Some(',' | ';' | ':')) && is_letter(letters[0]) && letters.iter().all(|&c| is_word(c));
    end + usize::from(known || inside)
}

/// `10,000`, `11:44`, `-5`, `.5`, `(555)`.
fn number(t: &[char], at: usize) -> usize {
    if t[at] == '(' {
        return telephone(t, at);
    }
    let from = at + usize::from(matches!(t[at], '-' | '+'));
    let end = unsigned(t, from);
    if end == from { at } else { end }
}

/// `(555) 555-1234`: with the area's brackets as part of the number.
fn telephone(t: &[char], at: usize) -> usize {
    let digits = |from: usize, least: usize, most: usize| {
        let end = run(t, from, is_digit);
        (least..=most).contains(&(end - from)).then_some(end)
    };
    let blank = |end: usize| end + usize::from(t.get(end) == Some(&' '));
    let end = digits(at + 1, 2, 3).filter(|&end| t.get(end) == Some(&')'));
    let end = end.and_then(|end| digits(blank(end + 1), 3, 4));
    let end = end.and_then(|end| digits(end + usize::from(matches!(t.get(end), Some(' ' | '-'))), 3, 5));
    end.unwrap_or(at)
}

fn unsigned(t: &[char], from: usize) -> usize {
    let mut end = run(t, from, is_digit);
    while end + 1 < t.len() && matches!(t[end], '.' | ',' | ':') && is_digit(t[end + 1]) {
        end = run(t, end + 1, is_digit);
    }
    end
}

/// `3/4` and `22-3/4`; up to four digits on each side.
fn fraction(t: &[char], at: usize) -> usize {
    let digits = |from: usize| match run(t, from, is_digit) - from {
        n @ 1..=4 => Some(from + n),
        _ => None,
    };
    let simple = |from: usize| {
        digits(from)
            .filter(|&end| matches!(t.get(end), Some('/' | '\u{2044}')))
            .and_then(|end| digits(end + 1))
    };
    let mixed = || {
        digits(at)
            .filter(|&end| t.get(end) == Some(&'-'))
            .and_then(|end| simple(end + 1))
    };
    mixed().or_else(|| simple(at)).unwrap_or(at)
}

/// `black/white`, `beige/white/brown-ish`: two or three parts, the parts with up to two hyphens.
fn slashed(t: &[char], at: usize) -> usize {
    let part = |from: usize| {
        let mut end = run(t, from, |c| c.is_ascii_alphanumeric());
        for _ in 0..2 {
            let more = if end > from && t.get(end) == Some(&'-') {
                run(t, end + 1, |c| c.is_ascii_alphabetic())
            } else {
                end
            };
            if more > end + 1 {
                end = more;
            }
        }
        end
    };
    let first = part(at);
    let mut end = first;
    for _ in 0..2 {
        if end > at && t.get(end) == Some(&'/') {
            let more = part(end + 1);
            if more > end + 1 {
                end = more;
            }
        }
    }
    if end > first { end } else { at }
}

/// `black-and-white`, `10.5-inch`, `u.s.-based`.
fn hyphened(t: &[char], at: usize) -> usize {
    if !is_word(t[at]) {
        return at;
    }
    let hyphen = |c: Option<&char>| matches!(c, Some('-' | '\u{2010}' | '\u{2011}'));
    let mut end = run(t, at, |c| is_word(c) || matches!(c, '.' | ','));
    let first = end;
    while hyphen(t.get(end)) {
        let more = run(t, end + 1, is_word);
        if more == end + 1 {
            break;
        }
        end = more;
    }
    if end > first { end } else { at }
}

/// Words that an apostrophe belongs to: `o'clock`, `ma'am`, `'em`, `'90s`, `'n'`; and what is left of others: `'s`, `n't`.
fn apostrophe(t: &[char], at: usize) -> usize {
    let get = |i: usize| t.get(i).copied().unwrap_or(' ');
    let apart = |end: usize| !is_letter(get(end));
    if !matches!(t[at], '\'' | '\u{2019}') {
        // what `clitic` left
        if matches!(t[at], 'n' | 'N') && get(at + 1) == '\'' && matches!(get(at + 2), 't' | 'T') && apart(at + 3) {
            return at + 3;
        }
        if !is_letter(t[at]) {
            return at;
        }
        let end = run(t, at, is_letter);
        if get(end) != '\'' {
            return at;
        }
        let tail = run(t, end + 1, is_word);
        let rest = lower(&t[end + 1..tail]);
        let whole = lower(&t[at..tail]);
        if whole == "y'all" {
            return end + 1;
        }
        if matches!(rest.as_str(), "s" | "m" | "d" | "re" | "ve" | "ll" | "t") || !is_letter(get(end + 1)) {
            return if whole.starts_with("ol'") && rest.is_empty() && end == at + 2 {
                end + 1
            } else {
                at
            };
        }
        let (first, one) = (t[at], end == at + 1);
        let french = one && tail > end + 2 && matches!(first, 'd' | 'D' | 'o' | 'O' | 'l' | 'L');
        let name =
            one && (first.is_ascii_uppercase() && first != 'I' && first != 'Y' || first == 'n') && tail > end + 2;
        let vowels = !one
            && "aeiouyAEIOUY".contains(t[end - 1])
            && ("aeiou".contains(get(end + 1)) || get(end + 1).is_ascii_uppercase());
        let other = matches!(
            whole.as_str(),
            "c'mon" | "e'er" | "s'mores" | "nor'easter" | "ev'ry" | "li'l" | "nat'l" | "cont'd"
        );
        return if french || name || vowels || other { tail } else { at };
    }
    let end = run(t, at + 1, is_word);
    let rest = lower(&t[at + 1..end]);
    match rest.as_str() {
        "s" | "m" | "d" | "re" | "ve" | "ll" | "em" | "til" | "till" | "cause" | "tis" | "twas" => end,
        "n" => end + usize::from(get(end) == '\''),
        _ => {
            let b = rest.as_bytes();
            let decade = b.len() == 3 && (b'2'..=b'9').contains(&b[0]) && b[1] == b'0' && b[2] == b's';
            let year = b.len() == 2 && b.iter().all(u8::is_ascii_digit);
            if decade || year { end } else { at + 1 }
        }
    }
}

/// `<b>`, `&amp;`.
fn tag(t: &[char], at: usize) -> usize {
    match t[at] {
        '<' => {
            let from = at + 1 + usize::from(t.get(at + 1) == Some(&'/'));
            if !t.get(from).is_some_and(char::is_ascii_alphabetic) {
                return at;
            }
            let end = run(t, from, |c| !matches!(c, '<' | '>'));
            if t.get(end) == Some(&'>') { end + 1 } else { at }
        }
        '&' => {
            let end = run(t, at + 1, |c| c.is_ascii_alphanumeric() || c == '#');
            let name = lower(&t[at + 1..end]);
            let known = name.starts_with('#') || listed("amp lt gt quot nbsp apos", &name);
            if known && t.get(end) == Some(&';') { end + 1 } else { at }
        }
        _ => at,
    }
}

/// Web and mail addresses, names after `@`, tags after `#`, `a_b`.
fn address(t: &[char], at: usize) -> usize {
    if matches!(t[at], '@' | '#') {
        let starts = t.get(at + 1).is_some_and(|c| c.is_ascii_alphabetic() || *c == '_');
        return if starts {
            run(t, at + 1, |c| c.is_ascii_alphanumeric() || c == '_')
        } else {
            at
        };
    }
    if !is_word(t[at]) {
        return at;
    }
    let end = run(t, at, |c| {
        !is_space(c) && !matches!(c, '"' | '<' | '>' | '|' | '(' | ')' | '{' | '}')
    });
    let candidate = &t[at..end];
    let whole = lower(candidate);
    let trimmed = |text: &str| {
        text.trim_end_matches(['.', ',', '!', '?', ':', ';', '\''])
            .chars()
            .count()
    };
    if whole.starts_with("http://") || whole.starts_with("https://") {
        return at + trimmed(&whole);
    }
    if let Some(mail) = candidate.iter().position(|&c| c == '@') {
        let domain = run(candidate, mail + 1, |c| is_word(c) || matches!(c, '.' | '-'));
        let user = candidate[..mail]
            .iter()
            .all(|&c| is_word(c) || matches!(c, '.' | '_' | '-' | '+'));
        if user && domain > mail + 1 && candidate[mail + 1..domain].iter().any(|&c| is_letter(c)) {
            let text: String = candidate[..domain].iter().collect();
            return at + trimmed(&text);
        }
    }
    let host = run(candidate, 0, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    let name = whole.chars().take(host).collect::<String>();
    let name = name.trim_end_matches(['.', '-']);
    let site = [".com", ".net", ".org", ".edu"]
        .iter()
        .any(|end| name.ends_with(end) && name.len() > end.len());
    if site || name.starts_with("www.") && name.matches('.').count() > 1 {
        let host = name.chars().count();
        return if candidate.get(host) == Some(&'/') {
            at + trimmed(&whole)
        } else {
            at + host
        };
    }
    let joined = run(candidate, 0, |c| c.is_ascii_alphanumeric() || c == '_');
    let text: String = candidate[..joined].iter().collect();
    if text.contains('_') {
        at + text.trim_end_matches('_').len()
    } else {
        at
    }
}

/// Runs of one mark, faces, `AT&T`, `US$`; else one character.
fn symbol(t: &[char], at: usize) -> usize {
    let c = t[at];
    if c.is_ascii_uppercase() {
        let end = run(t, at, |c| c.is_ascii_uppercase());
        return match t.get(end) {
            Some('$') => end + 1,
            Some('&') => {
                let from = if t[end..].starts_with(&['&', 'a', 'm', 'p', ';']) {
                    end + 5
                } else {
                    end + 1
                };
                let more = run(t, from, |c| c.is_ascii_uppercase());
                if more > from && t.get(more).is_none_or(|&c| !is_word(c)) {
                    more
                } else {
                    at
                }
            }
            _ => at,
        };
    }
    match c {
        '!' | '?' => run(t, at, |c| matches!(c, '!' | '?')),
        '*' => run(t, at, |c| c == '*'),
        '-' | '_' => run(t, at, |d| d == c),
        '<' | '>' if t.get(at + 1) == Some(&c) => at + 2,
        '^' if t[at..].starts_with(&['^', '_', '^']) => at + 3,
        ':' | ';' | '=' => face(t, at),
        _ => at,
    }
}

/// `:)`, `;-D`, `=(`.
fn face(t: &[char], at: usize) -> usize {
    let nose = at + 1 + usize::from(matches!(t.get(at + 1), Some('-' | 'o' | '*' | '\'')));
    let mouth = matches!(
        t.get(nose),
        Some('(' | ')' | 'D' | 'P' | 'd' | 'p' | 'O' | '\\' | '{' | '@' | '|' | '[' | ']')
    );
    let ends = t.get(nose + 1).is_none_or(|&c| !is_word(c));
    if mouth && ends { nose + 1 } else { at }
}

/// Writes one token the way it is counted, in parts where it is several words.
fn emit(t: &[char], at: usize, end: usize, words: &mut Vec<String>) {
    let token = lower(&t[at..end]);
    let mut push = |word: &str| {
        if !word.is_empty() {
            words.push(word.to_owned());
        }
    };
    if let Some(&(_, cut)) = DOUBLES.iter().find(|(double, _)| *double == token) {
        push(&token[..cut]);
        push(&token[cut..]);
        return;
    }
    let mut chars = token.chars();
    if let (Some(c), None) = (chars.next(), chars.next()) {
        return push(&single(c));
    }
    match token.as_str() {
        "&amp;" => push("&"),
        "&lt;" => push("<"),
        "&gt;" => push(">"),
        "&quot;" | "&nbsp;" | "&apos;" | "--" | "---" | "----" | "''" | "``" => {}
        _ => {
            let brackets: String = token
                .replace("&amp;", "&")
                .chars()
                .map(|c| if "()[]{}".contains(c) { single(c) } else { c.to_string() })
                .collect();
            brackets.split(is_space).for_each(push);
        }
    }
}

/// What a token of one character is counted as; nothing for punctuation.
fn single(c: char) -> String {
    let known = match c {
        '(' => "-lrb-",
        ')' => "-rrb-",
        '[' => "-lsb-",
        ']' => "-rsb-",
        '{' => "-lcb-",
        '}' => "-rcb-",
        '£' => "#",
        '€' => "$",
        '¢' => "cents",
        '½' => "1/2",
        '¼' => "1/4",
        '¾' => "3/4",
        '⅓' => "1/3",
        '⅔' => "2/3",
        '.' | '?' | '!' | ',' | ':' | '-' | ';' | '\'' | '`' | '"' | '…' | '–' | '—' => "",
        '\u{2018}'..='\u{201f}' | '«' | '»' | '‹' | '›' | '「' | '」' | '\u{200c}'..='\u{200f}' => "",
        _ => return c.to_string(),
    };
    known.to_owned()
}
