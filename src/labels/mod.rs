//! The labels of a running system: on the topic, in the label store, and which to ask for next.
//!
//! What a label is, and the files that hold some, are below (`tagstream_train::labels`) and named
//! here again, so that this is the one place to look for anything about labels.

mod publish;
pub mod store;
pub mod suggest;

pub use publish::{PublishError, publish};
pub use tagstream_train::labels::{
    CategoryCount, Form, ImageLabels, ImportOptions, Imported, Label, LabelFileError, LabelMatrix,
    LabelTable, LabelsError, Stamp, export, import, layouts, open, read_categories,
    read_class_names, read_split, read_states, write_states,
};
