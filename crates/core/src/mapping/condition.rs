//! Which records are images: `/eventName ~ ObjectCreated:*, s3:ObjectCreated:*`.

use super::field::Field;
use super::scope::Scope;
use crate::events::MessageError;

/// A field, and patterns of which one must be what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    field: Field,
    patterns: Vec<String>,
}

impl Condition {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "has `{text}`, which is no condition: write `/eventName ~ ObjectCreated:*`, a \
                 field and patterns with commas between them"
            )
        };
        let (field, patterns) = text.split_once('~').ok_or_else(form)?;
        let patterns = patterns.split(',').map(|pattern| pattern.trim().to_owned());
        let patterns: Vec<String> = patterns.filter(|pattern| !pattern.is_empty()).collect();
        if patterns.is_empty() {
            return Err(form());
        }
        let field = Field::parse(field.trim())?;
        Ok(Condition { field, patterns })
    }

    pub(super) fn field(&self) -> &Field {
        &self.field
    }

    /// Whether it holds; `None` where the field is not there.
    pub(super) fn holds(&self, scope: &Scope<'_, '_>) -> Result<Option<bool>, MessageError> {
        let written = self.field.written();
        let Some(found) = self.field.find(scope, written)? else {
            return Ok(None);
        };
        let Some(text) = found.text(written)? else {
            return Ok(None);
        };
        let matches = |pattern: &String| is_like(&text, pattern);
        Ok(Some(self.patterns.iter().any(matches)))
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut rest) = text.strip_prefix(before) else {
        return false;
    };
    let mut pieces: Vec<&str> = after.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (text, pattern, like) in [
            ("ObjectCreated:Put", "ObjectCreated:*", true),
            ("s3:ObjectCreated:Put", "ObjectCreated:*", false),
            ("s3:ObjectCreated:Put", "*ObjectCreated:*", true),
            ("ObjectRemoved:Delete", "ObjectCreated:*", false),
            ("abcab", "a*b*b", true),
            ("ab", "a*b*b", false),
            ("", "*", true),
            ("x", "x", true),
        ] {
            assert_eq!(is_like(text, pattern), like, "{text} {pattern}");
        }
    }
}
