//! What stands in one cell of a file of categories.

use super::words::Phrase;

/// Between phrases of a cell.
const SEPARATOR: char = '|';

/// The weights that a column's phrases may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    /// Of a phrase that names none.
    pub usual: f32,
    /// The largest.
    pub most: f32,
}

/// Of words that stand for a category: against each other.
pub(super) const WORDS: Weights = Weights {
    usual: 1.0,
    most: f32::MAX,
};

/// Of negative words: how much of them is subtracted.
pub(super) const NEGATIVE: Weights = Weights {
    usual: 0.5,
    most: 1.0,
};

/// `dog | puppy:0.5`: phrases, each with its weight behind a colon if it has one. A colon before
/// anything but a number belongs to the phrase.
pub(super) fn phrases(cell: &str, weights: Weights) -> Result<Vec<Phrase>, String> {
    if cell.trim().is_empty() {
        return Ok(Vec::new());
    }
    let all = cell.split(SEPARATOR).map(|part| phrase(part, weights));
    distinct(all.collect::<Result<_, _>>()?)
}

fn phrase(part: &str, weights: Weights) -> Result<Phrase, String> {
    let part = part.trim();
    let (text, weight) = match part.rsplit_once(':') {
        Some((text, number)) if looks_like_a_number(number) => {
            let number = number.trim();
            let weight = number.parse().map_err(|_| {
                format!("the weight `{number}` is no number: write it with a point, as in dog:0.5")
            })?;
            (text.trim(), weight)
        }
        _ => (part, weights.usual),
    };
    checked(text, weight, weights)
}

/// A phrase with a weight that may be.
pub(super) fn checked(text: &str, weight: f32, weights: Weights) -> Result<Phrase, String> {
    if text.is_empty() {
        return Err("a phrase is empty: leave out the separator, or write words there".into());
    }
    if !(weight > 0.0 && weight <= weights.most && weight.is_finite()) {
        let most = match weights.most {
            f32::MAX => String::new(),
            most => format!(" and at most {most}"),
        };
        return Err(format!(
            "the weight of `{text}` is {weight}: it must be above 0{most}"
        ));
    }
    Ok(Phrase {
        text: text.to_owned(),
        weight,
    })
}

/// Phrases none of which stands there twice.
pub(super) fn distinct(phrases: Vec<Phrase>) -> Result<Vec<Phrase>, String> {
    for (at, phrase) in phrases.iter().enumerate() {
        if phrases[..at].iter().any(|other| other.text == phrase.text) {
            return Err(format!(
                "`{}` stands there twice: give it once, with a larger weight",
                phrase.text
            ));
        }
    }
    Ok(phrases)
}

fn looks_like_a_number(text: &str) -> bool {
    let text = text.trim();
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let text = text.to_ascii_lowercase();
    // Otherwise it is a time or a name, as in `12:30` of a clock's picture: refused, not guessed.
    begins || ["nan", "inf", "infinity"].contains(&text.as_str())
}

/// A probability.
pub(super) fn threshold(cell: &str) -> Result<f32, String> {
    let number: Option<f32> = cell.parse().ok();
    number
        .filter(|threshold| (0.0..=1.0).contains(threshold))
        .ok_or_else(|| "a threshold is a number from 0 to 1, with a point, as in 0.3".into())
}

/// Yes or no.
pub(super) fn flag(cell: &str) -> Result<bool, String> {
    match cell.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" | "x" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("write yes or no, or leave it empty".into()),
    }
}

/// A language tag in the form of BCP 47.
pub(super) fn language(cell: &str) -> Result<String, String> {
    let mut parts = cell.split('-');
    let first = parts.next().unwrap_or_default();
    let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
    let own = (2..=3).contains(&first.len()) && letters(first);
    let rest = parts.all(|part| {
        (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    match own && rest {
        true => Ok(cell.to_owned()),
        false => Err("write a language as BCP 47 does, as in en, de or zh-Hans".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cell: &str) -> Result<Vec<(String, f32)>, String> {
        let all = phrases(cell, WORDS)?;
        Ok(all.into_iter().map(|p| (p.text, p.weight)).collect())
    }

    #[test]
    fn phrases_have_weights_behind_a_colon() {
        let expected = [
            ("dog", 1.0),
            ("puppy", 0.5),
            ("狗", 2.0),
            ("Star Wars: IV", 1.0),
        ];
        let found = of(" dog| puppy : 0.5 |狗:2|Star Wars: IV").unwrap();
        assert_eq!(
            found,
            expected.map(|(text, weight)| (text.to_owned(), weight))
        );
        assert!(of(" ").unwrap().is_empty());
        assert_eq!(phrases("toy", NEGATIVE).unwrap()[0].weight, 0.5);
    }

    #[test]
    fn what_cannot_be_a_phrase_is_said() {
        for (cell, wrong) in [
            ("dog||cat", "empty"),
            ("dog:0", "above 0"),
            ("dog:-1", "above 0"),
            ("dog:0,5", "no number"),
            ("dog:nan", "above 0"),
            ("dog:inf", "above 0"),
            ("dog|dog:2", "twice"),
            (":2", "empty"),
        ] {
            let error = of(cell).unwrap_err();
            assert!(error.contains(wrong), "{cell}: {error}");
        }
        let error = phrases("toy:1.5", NEGATIVE).unwrap_err();
        assert!(error.contains("at most 1"), "{error}");
    }

    #[test]
    fn other_cells_are_checked() {
        assert_eq!(threshold("0.25"), Ok(0.25));
        for cell in ["1.5", "-0.1", "nan", "0,5", "30%"] {
            assert!(threshold(cell).is_err(), "{cell}");
        }
        assert_eq!((flag("Yes"), flag("0")), (Ok(true), Ok(false)));
        assert!(flag("maybe").is_err());
        for good in ["en", "de-CH", "zh-Hans", "sr-Latn-RS"] {
            assert!(language(good).is_ok(), "{good}");
        }
        for bad in ["deutsch", "d", "de_CH", "de-", "12"] {
            assert!(language(bad).is_err(), "{bad}");
        }
    }
}
