//! Groups named by a regular expression on addresses or ids.

use regex::Regex;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("groups.pattern `{pattern}` is no regular expression: {reason}")]
pub struct PatternError {
    /// What was written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A pattern that names the group of an image.
#[derive(Debug, Clone)]
pub struct GroupPattern(Regex);

impl GroupPattern {
    /// Compiles a regular expression.
    ///
    /// ```
    /// use tagstream_train::groups::GroupPattern;
    ///
    /// let series = GroupPattern::new(r"^(\d+)\d{3}$")?;
    /// assert_eq!(series.group("153042"), Some("153"));
    /// assert_eq!(series.group("holiday"), None);
    /// assert_eq!(GroupPattern::new("^[^/]+")?.group("may/1.jpg"), Some("may"));
    /// # Ok::<(), tagstream_train::groups::PatternError>(())
    /// ```
    ///
    /// # Errors
    /// If it is none.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Regex::new(pattern).map(Self).map_err(|error| PatternError {
            pattern: pattern.to_owned(),
            // The last line says what; those before draw it with carets.
            reason: error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        })
    }

    /// The group that an address or id names: the first capture that took part, or without
    /// captures all that was matched. None where the pattern does not match.
    pub fn group<'a>(&self, text: &'a str) -> Option<&'a str> {
        let found = self.0.captures(text)?;
        let capture = found.iter().skip(1).flatten().next();
        let name = capture.or_else(|| found.get(0))?.as_str();
        (!name.is_empty()).then_some(name)
    }
}
