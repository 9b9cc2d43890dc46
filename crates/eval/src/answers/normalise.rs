//! What is done to short answers before they are compared (VQA: Antol et al. 2015; VQAv2's and TextVQA's servers).
//!
//! Two versions are in use, and both are needed: [`vqa`] is what VQAv2's evaluation does to both sides, [`eval_ai`] what TextVQA's does, and what LLaVA does to
//! its answers before it hands them to VQAv2's. Both keep the quirks of the original, which decide some answers:
//!
//! - a mark like `-` or `/` is removed where it stands next to a blank **anywhere in the answer** (or where a comma stands between digits), and becomes a blank
//!   otherwise: `t-shirt` → `t shirt`, but `red - t-shirt` → `red  tshirt`;
//! - a period is removed unless a digit follows it, and only the first 32 are;
//! - `none` is a number word: `0`.

/// `key=value`: words without their apostrophe, and how they are written. Keys with capitals are not listed: answers are in lower case when they are looked up.
const CONTRACTIONS: &str = "aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've couldnt've=couldn't've didnt=didn't \
    doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've hasnt=hasn't havent=haven't hed=he'd hed've=he'd've \
    he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll maam=ma'am \
    mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've neednt=needn't \
    notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at shant=shan't shed've=she'd've \
    she'dve=she'd've shouldve=should've shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd \
    somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's someoned=someone'd \
    someoned've=someone'd've someone'dve=someone'd've someonell=someone'll someones=someone's somethingd=something'd \
    somethingd've=something'd've something'dve=something'd've somethingll=something'll thats=that's thered=there'd thered've=there'd've \
    there'dve=there'd've therere=there're theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll theyre=they're \
    theyve=they've twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're \
    whats=what's whatve=what've whens=when's whered=where'd wheres=where's whereve=where've whod=who'd whod've=who'd've who'dve=who'd've \
    wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't \
    wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've \
    y'all'dve=y'all'd've youd=you'd youd've=you'd've you'dve=you'd've youll=you'll youre=you're youve=you've";
const NUMBERS: &[(&str, &str)] = &[
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];
const PUNCTUATION: &[char] = &[
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];
/// How many periods are looked at: the original passes a flag where a count is meant.
const PERIODS: usize = 32;

/// White space as Python splits and strips it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A decimal digit of the scripts that answers come in.
fn is_digit(c: char) -> bool {
    matches!(c, '0'..='9' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}' | '\u{966}'..='\u{96f}' | '\u{ff10}'..='\u{ff19}')
}

/// VQAv2's normalisation: punctuation, number words, articles, contractions, lower case.
#[must_use]
pub fn vqa(answer: &str) -> String {
    words(&punctuation(&stripped(answer)))
}

/// TextVQA's normalisation: as [`vqa`], after lower-casing, dropping `,` and `?`, and cutting `'s` off.
#[must_use]
pub fn eval_ai(answer: &str) -> String {
    let lower = answer.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    words(&punctuation(&stripped(&lower)))
}

/// One line without blanks at its ends: what is done to an answer even where all annotators agree.
#[must_use]
pub fn stripped(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim_matches(is_space).to_owned()
}

fn punctuation(answer: &str) -> String {
    let chars: Vec<char> = answer.chars().collect();
    let grouped = chars
        .windows(3)
        .any(|w| is_digit(w[0]) && w[1] == ',' && is_digit(w[2]));
    // what happens to a mark is decided on the answer as it was
    let beside_blank = |mark: char| {
        chars
            .windows(2)
            .any(|w| w[0] == mark && w[1] == ' ' || w[0] == ' ' && w[1] == mark)
    };
    let removed: Vec<char> = PUNCTUATION
        .iter()
        .copied()
        .filter(|&mark| grouped || beside_blank(mark))
        .collect();
    let mut out: Vec<char> = Vec::with_capacity(chars.len());
    for c in chars {
        if !PUNCTUATION.contains(&c) {
            out.push(c);
        } else if !removed.contains(&c) {
            out.push(' ');
        }
    }
    let mut periods = 0;
    let mut text = String::with_capacity(out.len());
    for (at, &c) in out.iter().enumerate() {
        if c == '.' && periods < PERIODS && !out.get(at + 1).is_some_and(|&next| is_digit(next)) {
            periods += 1;
        } else {
            text.push(c);
        }
    }
    text
}

fn words(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let mut words: Vec<&str> = Vec::new();
    for word in lower.split(is_space).filter(|word| !word.is_empty()) {
        let word = NUMBERS
            .iter()
            .find(|(name, _)| *name == word)
            .map_or(word, |(_, digits)| digits);
        if !matches!(word, "a" | "an" | "the") {
            words.push(contraction(word).unwrap_or(word));
        }
    }
    words.join(" ")
}

fn contraction(word: &str) -> Option<&'static str> {
    CONTRACTIONS.split_ascii_whitespace().find_map(|pair| {
        pair.split_once('=')
            .filter(|(key, _)| *key == word)
            .map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_depend_on_blanks_elsewhere() {
        assert_eq!(vqa("T-shirt"), "t shirt");
        assert_eq!(vqa("red - t-shirt"), "red tshirt");
        assert_eq!(vqa("1,000 - 5"), "1000 5");
        assert_eq!(vqa("3.5 ft."), "3.5 ft");
        assert_eq!(vqa("None of the  two dont"), "0 of 2 don't");
    }

    #[test]
    fn the_two_versions_differ_where_the_servers_do() {
        assert_eq!((vqa("dog's").as_str(), eval_ai("dog's").as_str()), ("dog's", "dog 's"));
        assert_eq!(
            (vqa("yes,no").as_str(), eval_ai("yes,no").as_str()),
            ("yes no", "yesno")
        );
        assert_eq!(eval_ai("\tThe End?\n"), "end");
    }

    #[test]
    fn only_so_many_periods_go() {
        assert_eq!(vqa(&".".repeat(33)), ".");
    }
}
