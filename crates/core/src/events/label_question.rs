//! The message by which an image is put before an annotator.

use super::LabelEvent;
use serde::{Deserialize, Serialize};

/// A category to ask about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Category name.
    pub category: String,
    /// Calibrated probability predicted, in `[0, 1]`.
    pub score: f32,
}

/// What a question is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionPurpose {
    /// Its answer teaches most.
    #[default]
    Learning,
    /// It was drawn evenly: its answer tells how good models are.
    Measuring,
}

/// An image worth a label (the value of a message of the topic of suggestions, JSON; the message
/// key is `image_id`).
///
/// It is a label event that says nothing yet. Whoever answers fills its lists in and sends it to
/// the labels topic, which ignores the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelQuestion {
    /// The event to be filled in.
    #[serde(flatten)]
    pub event: LabelEvent,
    /// From 1, the one worth most.
    pub rank: usize,
    /// What the image's labels are reckoned to be worth by themselves.
    pub value: f64,
    /// What it is asked for.
    #[serde(default)]
    pub purpose: QuestionPurpose,
    /// The categories to ask about, the one worth most first.
    pub ask: Vec<Asked>,
}

impl AsRef<LabelEvent> for LabelQuestion {
    fn as_ref(&self) -> &LabelEvent {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::label_event::tests::fits;
    use serde_json::{Value, json};

    #[test]
    fn the_published_schema_and_the_code_accept_the_same_questions() {
        let schema: Value = serde_json::from_str(include_str!(
            "../../../../schemas/label_question.schema.json"
        ))
        .unwrap();
        let question = LabelQuestion {
            event: LabelEvent::about("a", "s3://b/a.jpg"),
            rank: 1,
            value: 0.75,
            purpose: QuestionPurpose::Measuring,
            ask: vec![Asked {
                category: "cat".into(),
                score: 0.5,
            }],
        };
        let written = serde_json::to_value(&question).unwrap();
        let ours: Vec<&String> = written.as_object().unwrap().keys().collect();
        let theirs: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(ours, theirs);
        let with = |key: &str, value: Value| {
            let mut changed = written.clone();
            changed[key] = value;
            changed
        };
        for (good, value) in [
            (true, written.clone()),
            (true, with("ask", json!([]))),
            (true, with("note", json!(1))),
            (false, json!({"image_id": "a"})),
            (false, with("image_id", json!(7))),
            (false, with("rank", json!("first"))),
            (false, with("value", json!("much"))),
            (true, with("purpose", json!("learning"))),
            (false, with("purpose", json!("fun"))),
            (false, with("ask", json!(["cat"]))),
            (false, with("ask", json!([{"category": "cat"}]))),
        ] {
            assert_eq!(fits(&schema, &schema, &value), good, "the schema: {value}");
            let read = serde_json::from_value::<LabelQuestion>(value.clone());
            assert_eq!(read.is_ok(), good, "the code: {value}");
        }
        // An answer is the question with its lists filled in.
        let mut answer = with("present", json!(["cat"]));
        let read = LabelEvent::from_json(answer.to_string().as_bytes()).unwrap();
        assert_eq!(read.present, ["cat"]);
        answer["present"] = json!([]);
        let read = LabelEvent::from_json(answer.to_string().as_bytes()).unwrap();
        assert_eq!(read, question.event);
    }
}
