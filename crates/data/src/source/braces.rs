//! Patterns of file names as shells and webdataset have them: `name-{000..012}.tar`, `{train,extra}.tar`.

use std::path::{Path, PathBuf};

/// More shards than any dataset has.
const MOST: usize = 100_000;

/// All paths that a pattern stands for, in its order; `None` when it is none, or one that cannot be.
#[must_use]
pub fn expand(path: &Path) -> Option<Vec<PathBuf>> {
    let mut all = vec![String::new()];
    let mut rest = path.to_str()?;
    let mut braces = false;
    while let Some(open) = rest.find('{') {
        let close = open + rest[open..].find('}')?;
        let choices = choices(&rest[open + 1..close])?;
        braces = true;
        if all.len().checked_mul(choices.len())? > MOST {
            return None;
        }
        let before = &rest[..open];
        all = all
            .iter()
            .flat_map(|begin| choices.iter().map(move |choice| format!("{begin}{before}{choice}")))
            .collect();
        rest = &rest[close + 1..];
    }
    braces.then(|| all.into_iter().map(|begin| PathBuf::from(begin + rest)).collect())
}

fn choices(inner: &str) -> Option<Vec<String>> {
    let Some((from, to)) = inner.split_once("..") else {
        let choices: Vec<String> = inner.split(',').map(str::to_owned).collect();
        return Some(choices).filter(|c| c.len() > 1);
    };
    // as wide as the first number is written
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<usize>().ok())?
    };
    let (first, last) = (number(from)?, number(to)?);
    let count = last.checked_sub(first)?.checked_add(1)?;
    let width = from.len();
    (count <= MOST && width <= 20).then(|| (first..=last).map(|n| format!("{n:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str) -> Option<Vec<String>> {
        let paths = expand(Path::new(pattern))?;
        Some(paths.iter().map(|p| p.display().to_string()).collect())
    }

    #[test]
    fn patterns() {
        assert_eq!(
            of("a-{008..011}.tar").unwrap(),
            ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
        );
        assert_eq!(of("{x,y}/{0..1}").unwrap(), ["x/0", "x/1", "y/0", "y/1"]);
        for bad in [
            "a.tar",
            "{",
            "{}",
            "{1..}",
            "{..2}",
            "{2..1}",
            "{0..99999999}",
            "{0..999}{0..999}",
            "{a..c}",
            "{1..2",
            "{-1..2}",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(of("{18446744073709551615..18446744073709551615}").unwrap().len(), 1);
    }
}
