//! XML as label files use it: elements with attributes and text, read into a tree. Entities of a
//! document's own are refused, and so is nesting that no label file has.

use super::error::{LabelsError, line};
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::fmt::Display;

/// The deepest nesting that is read.
const DEEPEST: usize = 32;

/// A tag with what stands in it.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    /// All text that stands directly in it.
    text: String,
    pub(super) children: Vec<Element>,
    /// Where it begins.
    pub(super) line: u64,
}

impl Element {
    /// The value of an attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.trim())
    }

    /// The children of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name, without blanks around it; `None` if empty.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        let text = self.child(name)?.text.trim();
        (!text.is_empty()).then_some(text)
    }
}

/// Reads a document, of attributes only those in `attributes`. `root` is what its outermost element
/// must be called, `form` what such files are called.
pub(super) fn document(
    text: &str,
    root: &str,
    attributes: &[&str],
    form: &str,
) -> Result<Element, LabelsError> {
    let mut reader = Reader::from_str(text);
    let mut lines = Lines {
        text,
        at: 0,
        line: 1,
    };
    let mut tree = Tree {
        open: vec![Element::default()],
        wanted: attributes,
    };
    loop {
        let at = lines.of(reader.buffer_position());
        match reader.read_event().map_err(|error| not_xml(at, error))? {
            Event::Eof => break,
            event => tree.take(event, at)?,
        }
    }
    if let [_, .., unended] = tree.open.as_slice() {
        let reason = format!("`<{}>` has no end", unended.name);
        return Err(line(unended.line, reason));
    }
    let mut document = tree.open.pop().unwrap_or_default();
    let found = document.children.first();
    let found = found.map_or("no element".to_owned(), |e| format!("`<{}>`", e.name));
    let at = document.children.iter().position(|e| e.name == root);
    match at {
        Some(at) => Ok(document.children.swap_remove(at)),
        None => {
            let reason = format!("it has {found}; {form} begins with `<{root}>`");
            Err(line(1, reason))
        }
    }
}

fn not_xml(at: u64, error: impl Display) -> LabelsError {
    line(at, format!("not XML: {error}"))
}

/// A tree that grows.
struct Tree<'a> {
    /// The elements that are open, the outermost being the document itself.
    open: Vec<Element>,
    wanted: &'a [&'a str],
}

impl Tree<'_> {
    fn take(&mut self, event: Event<'_>, at: u64) -> Result<(), LabelsError> {
        let depth = self.open.len();
        let Some(current) = self.open.last_mut() else {
            return Ok(());
        };
        match event {
            Event::Start(_) if depth > DEEPEST => {
                let reason = format!("elements are nested more than {DEEPEST} deep");
                return Err(line(at, reason));
            }
            Event::Start(start) => {
                let element = element(&start, self.wanted, at);
                self.open.push(element.map_err(|error| not_xml(at, error))?);
            }
            Event::Empty(start) => {
                let element = element(&start, self.wanted, at);
                let element = element.map_err(|error| not_xml(at, error))?;
                current.children.push(element);
            }
            Event::End(_) => {
                if depth > 1
                    && let Some(ended) = self.open.pop()
                    && let Some(above) = self.open.last_mut()
                {
                    above.children.push(ended);
                }
            }
            Event::Text(text) => {
                let text = text.xml10_content();
                current.text += &text.map_err(|error| not_xml(at, error))?;
            }
            Event::CData(text) => {
                let text = text.xml10_content();
                current.text += &text.map_err(|error| not_xml(at, error))?;
            }
            Event::GeneralRef(entity) => {
                let character = entity.resolve_char_ref();
                let character = character.map_err(|error| not_xml(at, error))?;
                let name = entity.decode().map_err(|error| not_xml(at, error))?;
                match (character, resolve_predefined_entity(&name)) {
                    (Some(character), _) => current.text.push(character),
                    (None, Some(text)) => current.text.push_str(text),
                    (None, None) => {
                        let reason = format!("the entity `{name}` is not one of XML's own");
                        return Err(not_xml(at, reason));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn element(
    start: &BytesStart<'_>,
    wanted: &[&str],
    line: u64,
) -> Result<Element, quick_xml::Error> {
    let mut attributes = Vec::new();
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute?;
        let name = String::from_utf8_lossy(attribute.key.local_name().as_ref()).into_owned();
        if wanted.contains(&name.as_str()) {
            let value =
                attribute.decoded_and_normalized_value(XmlVersion::Implicit1_0, start.decoder())?;
            attributes.push((name, value.into_owned()));
        }
    }
    Ok(Element {
        name: String::from_utf8_lossy(start.local_name().as_ref()).into_owned(),
        attributes,
        line,
        ..Element::default()
    })
}

/// Counts lines up to a place that only goes on.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, position: u64) -> u64 {
        let end = usize::try_from(position).unwrap_or(usize::MAX);
        let end = end.clamp(self.at, self.text.len());
        let passed = &self.text.as_bytes()[self.at..end];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.at = end;
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Element, LabelsError> {
        document(text, "annotation", &["label"], "a test")
    }

    #[test]
    fn elements_keep_attributes_text_and_lines() {
        let text = "<?xml version=\"1.0\"?>\n<!-- x -->\n<annotation>\n\
                    <a label='x &amp; y' other='z'/><b> caf&#233; &lt;<![CDATA[<c>]]> </b>\n\
                    </annotation>\n";
        let root = read(text).unwrap();
        let a = root.child("a").unwrap();
        assert_eq!(
            (a.attribute("label"), a.attribute("other")),
            (Some("x & y"), None)
        );
        assert_eq!(root.text_of("b"), Some("café <<c>"));
        assert_eq!((root.line, a.line), (3, 4));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let deep = format!("<annotation>{}", "<a>".repeat(100));
        for (text, said) in [
            ("<annotation>\n<a></b></annotation>", "line 2: not XML"),
            ("<annotation>\n<a>", "line 2: `<a>` has no end"),
            (
                "<html></html>",
                "line 1: it has `<html>`; a test begins with `<annotation>`",
            ),
            ("", "line 1: it has no element"),
            ("<annotation>&own;</annotation>", "`own`"),
            (&deep, "nested"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
