//! Categories as people describe them: words, templates, parents, groups; the file that says so
//! ([`CategoryList`]) and the text features that come of it ([`text_features`]).

mod cells;
mod error;
mod features;
mod list;
mod rows;
mod templates;
mod words;

pub use error::CategoryListError;
pub use features::{WordFeatureError, text_features};
pub(crate) use list::settle;
pub use list::{CategoryList, ListedCategory};
pub use templates::{TemplateSet, Templates};
pub use words::{CategoryWords, Phrase, TagForm, ThresholdSource, check_relations};

#[cfg(test)]
mod tests;
