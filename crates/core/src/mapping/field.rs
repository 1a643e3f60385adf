//! Where a field's value stands: `/uri`, `header:site`, `s3://{/bucket}/{/key | url-encoded}`.
//!
//! ```text
//! field       = choice | text with "{" choice "}" in it
//! choice      = chain *( "||" chain )             the first that is there
//! chain       = source *( "|" filter )
//! source      = "/" JSON Pointer into the record | "message:/" one into the whole message
//!             | "header:" name | "ce:" attribute of a CloudEvent | "key" | "value" | "uri"
//! filter      = "url-decoded" | "url-encoded" | "base64" | "after:" text | "before:" text
//! ```

use super::place::{Found, Source};
use super::scope::Scope;
use crate::events::MessageError;
use crate::events::fields::refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// A field's place, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    parts: Vec<Part>,
    /// As it was written.
    written: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Choice(Vec<Chain>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    source: Source,
    filters: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    UrlDecoded,
    UrlEncoded,
    Base64,
    After(String),
    Before(String),
}

/// What stands in the path of an address as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

impl Field {
    /// Reads a place as a configuration writes it; the error says what is wrong with it.
    pub(super) fn parse(written: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = written;
        if !written.contains('{') {
            parts.push(Part::Choice(choice(written)?));
            rest = "";
        }
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) = after.split_once('}').ok_or("has a `{` without its `}`")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Choice(choice(inside)?));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let written = written.to_owned();
        Ok(Field { parts, written })
    }

    /// As it was written.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    /// Every source that it names.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        let chains = self.parts.iter().flat_map(|part| match part {
            Part::Text(_) => &[][..],
            Part::Choice(chains) => &chains[..],
        });
        chains.map(|chain| &chain.source)
    }

    /// What stands there; of text with braces all parts must be there. Null is not there.
    pub(super) fn find<'s, 'a>(
        &self,
        scope: &'s Scope<'s, 'a>,
        field: &str,
    ) -> Result<Option<Found<'s, 'a>>, MessageError> {
        if let [Part::Choice(chains)] = &self.parts[..] {
            return first(chains, scope, field);
        }
        let mut whole = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Choice(chains) => match first(chains, scope, field)? {
                    None => return Ok(None),
                    Some(found) => match found.text(field)? {
                        None => return Ok(None),
                        Some(text) => whole.push_str(&text),
                    },
                },
            }
        }
        Ok(Some(Found::Text(whole.into())))
    }
}

fn first<'s, 'a>(
    chains: &[Chain],
    scope: &'s Scope<'s, 'a>,
    field: &str,
) -> Result<Option<Found<'s, 'a>>, MessageError> {
    for chain in chains {
        let Some(found) = scope.find(&chain.source, field)? else {
            continue;
        };
        if chain.filters.is_empty() {
            return Ok(Some(found));
        }
        let Some(mut text) = found.text(field)? else {
            continue;
        };
        for filter in &chain.filters {
            text = filter.applied(&text, field)?.into();
        }
        return Ok(Some(Found::Text(text)));
    }
    Ok(None)
}

impl Filter {
    fn applied(&self, text: &str, field: &str) -> Result<String, MessageError> {
        let parted = |mark: &String| match text.split_once(mark.as_str()) {
            Some((before, after)) => Ok((before.to_owned(), after.to_owned())),
            None => Err(refused(
                field,
                format!("has no `{mark}`, which is looked for in it"),
            )),
        };
        Ok(match self {
            Filter::UrlDecoded => {
                let plus = text.replace('+', " ");
                let decoded = percent_decode_str(&plus).decode_utf8();
                let not_utf8 = |_| refused(field, "is not UTF-8 once it is URL-decoded");
                decoded.map_err(not_utf8)?.into_owned()
            }
            Filter::UrlEncoded => utf8_percent_encode(text, PATH).to_string(),
            Filter::Base64 => {
                let bytes = BASE64.decode(text.trim());
                let bytes = bytes.map_err(|_| refused(field, "is not Base64"))?;
                let text = String::from_utf8(bytes);
                text.map_err(|_| refused(field, "is not UTF-8 once it is taken out of Base64"))?
            }
            Filter::After(mark) => parted(mark)?.1,
            Filter::Before(mark) => parted(mark)?.0,
        })
    }
}

fn choice(text: &str) -> Result<Vec<Chain>, String> {
    text.split("||").map(|text| chain(text.trim())).collect()
}

fn chain(text: &str) -> Result<Chain, String> {
    let mut steps = text.split(" | ").map(str::trim);
    let source = source(steps.next().unwrap_or_default())?;
    let filters = steps.map(filter).collect::<Result<_, _>>()?;
    Ok(Chain { source, filters })
}

fn source(text: &str) -> Result<Source, String> {
    if text.starts_with('/') {
        return pointer(text).map(Source::Record);
    }
    let named = |name: &str| match name.trim() {
        "" => Err(format!("names nothing behind `{text}`")),
        name => Ok(name.to_owned()),
    };
    match text.split_once(':') {
        Some(("message", at)) if at.starts_with('/') => pointer(at).map(Source::Message),
        Some(("header", name)) => named(name).map(Source::Header),
        Some(("ce", name)) => named(name).map(Source::CloudEvent),
        None if text == "key" => Ok(Source::Key),
        None if text == "value" => Ok(Source::Value),
        None if text == "uri" => Ok(Source::Uri),
        _ => Err(format!(
            "has `{text}`, which is no place in a message; there are a JSON Pointer (`/a/b`), \
             `message:/a/b`, `header:NAME`, `ce:NAME`, `key`, `value` and `uri`, also in braces \
             within text (`s3://{{/bucket}}/{{/key}}`)"
        )),
    }
}

fn filter(text: &str) -> Result<Filter, String> {
    Ok(match text.split_once(':') {
        None if text == "url-decoded" => Filter::UrlDecoded,
        None if text == "url-encoded" => Filter::UrlEncoded,
        None if text == "base64" => Filter::Base64,
        Some(("after", mark)) if !mark.is_empty() => Filter::After(mark.into()),
        Some(("before", mark)) if !mark.is_empty() => Filter::Before(mark.into()),
        _ => {
            return Err(format!(
                "has `{text}` behind a `|`; there are url-decoded, url-encoded, base64, after:TEXT \
                 and before:TEXT"
            ));
        }
    })
}

/// The steps of a JSON Pointer (RFC 6901).
pub(super) fn pointer(text: &str) -> Result<Vec<String>, String> {
    let steps = text.strip_prefix('/').ok_or("is no JSON Pointer")?;
    let step = |step: &str| {
        let broken = step.replace("~0", "").replace("~1", "").contains('~');
        match broken {
            true => Err("has a `~` that is neither `~0` nor `~1`".to_owned()),
            false => Ok(step.replace("~1", "/").replace("~0", "~")),
        }
    };
    steps.split('/').map(step).collect()
}
