//! What a model says, in the forms of Label Studio: predictions of tasks, tasks to be imported
//! with them, and the labelling configuration by which these are shown.

use super::super::error::{LabelsError, record};
use super::controls::{NO, YES};
use super::labelling::{ImageControl, LabellingConfig};
use super::{ABSENT, PRESENT};
use quick_xml::escape::escape;
use serde_json::{Value, json};
use std::io::Write;
use tagstream_core::events::{BoundingBox, LabelQuestion, QuestionPurpose, Tag};

/// A list with more categories is one to search in.
const LONG: usize = 40;

/// A task to be imported, with what a model says to its questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Preannotated {
    /// The picture and what is asked about it.
    pub question: LabelQuestion,
    /// The model that says so.
    pub model_version: String,
}

fn choices(control: &str, image: &str, names: &[&str]) -> Value {
    let value = json!({"choices": names});
    json!({"type": "choices", "from_name": control, "to_name": image, "value": value})
}

/// Writes a list of tasks that Label Studio imports as they are, into a project with the
/// configuration of [`write_labelling_config`].
///
/// What is asked is answered as the model would, to be corrected. Questions for measuring are not:
/// an answer that is there already is often left there, and what is measured would be the model's
/// own opinion.
///
/// # Errors
/// [`LabelsError`] if the output cannot be written.
pub fn write_tasks(tasks: &[Preannotated], output: &mut impl Write) -> Result<(), LabelsError> {
    let tasks = tasks.iter().map(|task| {
        let question = &task.question;
        let asked: Vec<&str> = question.ask.iter().map(|a| a.category.as_str()).collect();
        let measuring = question.purpose == QuestionPurpose::Measuring;
        json!({
            "data": {
                "image": question.event.uri,
                "image_id": question.event.image_id,
                "ask": asked.join(", "),
                "purpose": question.purpose,
                "rank": question.rank,
            },
            "predictions": match measuring {
                true => Vec::new(),
                false => vec![preannotation(task)],
            },
        })
    });
    let tasks: Vec<Value> = tasks.collect();
    serde_json::to_writer_pretty(&mut *output, &tasks).map_err(std::io::Error::from)?;
    writeln!(output)?;
    Ok(())
}

fn preannotation(task: &Preannotated) -> Value {
    let ask = &task.question.ask;
    let of = |present: bool| -> Vec<&str> {
        let found = ask.iter().filter(|asked| (asked.score >= 0.5) == present);
        found.map(|asked| asked.category.as_str()).collect()
    };
    let lists = [(PRESENT, of(true)), (ABSENT, of(false))];
    let filled = lists.iter().filter(|(_, names)| !names.is_empty());
    let result: Vec<Value> = filled
        .map(|(name, names)| choices(name, "image", names))
        .collect();
    let sure = ask.iter().map(|a| f64::from(a.score.max(1.0 - a.score)));
    json!({
        "model_version": task.model_version,
        "score": sure.sum::<f64>() / ask.len().max(1) as f64,
        "result": result,
    })
}

/// Writes the labelling configuration of a project for such tasks: a list of what is there and one
/// of what is not; what stands in neither stays unknown.
///
/// # Errors
/// [`LabelsError`] names a category that cannot stand in XML.
pub fn write_labelling_config<'a>(
    categories: impl IntoIterator<Item = &'a str>,
    output: &mut impl Write,
) -> Result<(), LabelsError> {
    let mut offered = Vec::new();
    for name in categories {
        // What XML 1.0 has no way to write.
        if name
            .chars()
            .any(|c| c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}'))
        {
            let reason = "it has a character that a labelling configuration cannot hold";
            return Err(record(format!("category {name:?}"), reason));
        }
        offered.push(format!("    <Choice value=\"{}\"/>", escape(name)));
    }
    let layout = match offered.len() > LONG {
        true => "select",
        false => "inline",
    };
    writeln!(output, "<View>")?;
    writeln!(
        output,
        "  <Image name=\"image\" value=\"$image\" zoom=\"true\"/>"
    )?;
    writeln!(output, "  <Header value=\"$ask\"/>")?;
    for (name, said) in [(PRESENT, "It is there"), (ABSENT, "It is not there")] {
        writeln!(output, "  <Header value=\"{said}\" size=\"5\"/>")?;
        writeln!(
            output,
            "  <Choices name=\"{name}\" toName=\"image\" choice=\"multiple\" layout=\"{layout}\">"
        )?;
        for choice in &offered {
            writeln!(output, "{choice}")?;
        }
        writeln!(output, "  </Choices>")?;
    }
    writeln!(output, "</View>")?;
    Ok(())
}

/// A picture's prediction as a project's controls take it: the score, and the results.
/// `categories` are all that the model knows, `size` is the picture's.
pub fn predicted(
    tags: &[Tag],
    categories: &[String],
    size: (u32, u32),
    config: &LabellingConfig,
    absent_control: Option<&str>,
) -> (f64, Vec<Value>) {
    let absent = absent_control.unwrap_or(ABSENT);
    let mut results = Vec::new();
    let mut scores = Vec::new();
    for control in config
        .controls
        .iter()
        .filter(|control| control.name != absent)
    {
        if let Some(answer) = yes_or_no(control, tags, categories) {
            results.push(choices(&control.name, &control.to_name, &[answer]));
            continue;
        }
        let offered = |tag: &&Tag| label_of(control, tag).is_some();
        let mut found: Vec<&Tag> = tags.iter().filter(offered).collect();
        if !control.multiple {
            found.truncate(1);
        }
        scores.extend(found.iter().map(|tag| f64::from(tag.score)));
        let names: Vec<&str> = found
            .iter()
            .filter_map(|tag| label_of(control, tag))
            .collect();
        if control.rectangles {
            let boxes = found.iter().zip(names);
            // What no region supports has no rectangle: it would be one round the whole picture.
            results.extend(boxes.flat_map(|(tag, name)| {
                let places = tag.shown_boxes().into_iter();
                places.map(move |place| rectangle(control, (tag, place), name, size))
            }));
        } else if !names.is_empty() {
            results.push(choices(&control.name, &control.to_name, &names));
        }
    }
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    (mean, results)
}

/// What a control calls a tag, if it offers it: by the category's name or what people are shown.
fn label_of<'a>(control: &'a ImageControl, tag: &Tag) -> Option<&'a str> {
    let same = |text: &str| text == tag.category || text == tag.shown();
    let mut labels = control.labels.iter();
    let found = labels.find(|(shown, written)| same(written) || same(shown));
    found.map(|(_, written)| written.as_str())
}

/// The answer of a control that asks by yes and no whether the category is there that it is called.
fn yes_or_no<'a>(
    control: &'a ImageControl,
    tags: &[Tag],
    categories: &[String],
) -> Option<&'a str> {
    let known = categories.contains(&control.name);
    let tagged = tags.iter().any(|tag| tag.category == control.name);
    let wanted = if tagged { YES } else { NO };
    let mut labels = control.labels.iter().map(|(_, written)| written.as_str());
    let answer = labels.find(|label| wanted.contains(&label.to_lowercase().as_str()));
    answer.filter(|_| known && !control.rectangles)
}

fn rectangle(
    control: &ImageControl,
    (tag, place): (&Tag, BoundingBox),
    name: &str,
    (width, height): (u32, u32),
) -> Value {
    // Shares of the picture here, percent there.
    let percent = |share: f32| f64::from(share) * 100.0;
    json!({
        "type": "rectanglelabels",
        "from_name": control.name,
        "to_name": control.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": tag.score,
        "value": {
            "x": percent(place.x), "y": percent(place.y),
            "width": percent(place.w), "height": percent(place.h),
            "rotation": 0, "rectanglelabels": [name],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Form, ImportOptions, import};
    use super::*;
    use tagstream_core::events::{Asked, LabelEvent};

    fn tag(category: &str, score: f32) -> Tag {
        Tag {
            category: category.into(),
            display: None,
            score,
            bounding_box: BoundingBox {
                x: 0.25,
                y: 0.5,
                w: 0.5,
                h: 0.125,
            },
            boxes: None,
        }
    }

    fn task(id: &str, purpose: QuestionPurpose) -> Preannotated {
        let asked = [("cat & <dog>", 0.75), ("owl", 0.25)];
        let asked = asked.map(|(category, score)| Asked {
            category: category.into(),
            score,
        });
        Preannotated {
            question: LabelQuestion {
                event: LabelEvent::about(id, format!("s3://b/{id}.jpg")),
                rank: 1,
                value: 1.0,
                purpose,
                ask: asked.into(),
            },
            model_version: "m1".into(),
        }
    }

    #[test]
    fn tasks_carry_what_the_model_would_answer_but_not_where_it_is_measured() {
        let tasks = [
            task("photos/a", QuestionPurpose::Learning),
            task("b", QuestionPurpose::Measuring),
        ];
        let mut written = Vec::new();
        write_tasks(&tasks, &mut written).unwrap();
        let read: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(read[0]["data"]["image"], "s3://b/photos/a.jpg");
        assert_eq!(read[0]["data"]["ask"], "cat & <dog>, owl");
        let prediction = &read[0]["predictions"][0];
        assert_eq!(
            (&prediction["score"], &prediction["model_version"]),
            (&json!(0.75), &json!("m1"))
        );
        let of = |at: usize| {
            let result = &prediction["result"][at];
            (
                result["from_name"].clone(),
                result["value"]["choices"].clone(),
            )
        };
        assert_eq!(of(0), (json!("present"), json!(["cat & <dog>"])));
        assert_eq!(of(1), (json!("absent"), json!(["owl"])));
        assert_eq!(read[1]["predictions"], json!([]));
        // Nothing of it is a label until somebody says so.
        let imported = import(Form::LabelStudio, &*written, &ImportOptions::default()).unwrap();
        assert_eq!(imported.events, []);
    }

    #[test]
    fn the_configuration_offers_every_category_whatever_it_is_called() {
        let names = ["cat & <dog>", "it's \"that\"", "größe"];
        let mut written = Vec::new();
        write_labelling_config(names, &mut written).unwrap();
        let read = LabellingConfig::read(&String::from_utf8(written).unwrap()).unwrap();
        assert_eq!(read.image_key.as_deref(), Some("image"));
        let controls: Vec<&str> = read.controls.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(controls, ["present", "absent"]);
        for control in &read.controls {
            let offered: Vec<&str> = control.labels.iter().map(|(l, _)| l.as_str()).collect();
            assert!(offered == names && control.multiple);
        }
        let refused = write_labelling_config(["a\u{1}b"], &mut Vec::new()).unwrap_err();
        assert!(refused.to_string().contains("a\\u{1}b"), "{refused}");
    }

    #[test]
    fn a_prediction_has_what_the_controls_offer_and_nothing_else() {
        let config = LabellingConfig::read(
            r#"<View><Image name="img" value="$image"/>
            <Choices name="tags" toName="img" choice="multiple"><Choice value="owl"/>
              <Choice value="Cat" alias="cat"/></Choices>
            <Choices name="one" toName="img"><Choice value="cat"/><Choice value="dog"/></Choices>
            <Choices name="dog" toName="img"><Choice value="Yes"/><Choice value="No"/></Choices>
            <Choices name="owl" toName="img"><Choice value="Yes"/><Choice value="No"/></Choices>
            <Choices name="sofa" toName="img"><Choice value="Yes"/><Choice value="No"/></Choices>
            <Choices name="absent" toName="img"><Choice value="dog"/></Choices>
            <RectangleLabels name="box" toName="img"><Label value="dog"/></RectangleLabels>
            </View>"#,
        );
        let categories = ["cat", "dog", "owl"].map(String::from);
        let tags = [tag("dog", 0.9), tag("cat", 0.7), tag("tree", 0.6)];
        let (score, results) = predicted(&tags, &categories, (40, 30), &config.unwrap(), None);
        let said = results.iter().map(|result| {
            let value = &result["value"];
            let names = value.get("choices").unwrap_or(&value["rectanglelabels"]);
            (result["from_name"].as_str().unwrap(), names.clone())
        });
        let wanted = [
            ("tags", json!(["cat"])),
            ("one", json!(["dog"])),
            ("dog", json!(["Yes"])),
            ("owl", json!(["No"])),
            ("box", json!(["dog"])),
        ];
        assert_eq!(said.collect::<Vec<_>>(), wanted);
        let place = &results[4]["value"];
        assert_eq!(
            (&place["x"], &place["height"]),
            (&json!(25.0), &json!(12.5))
        );
        assert_eq!(results[4]["original_width"], 40);
        // What is seen nowhere is tagged all the same, without a rectangle.
        let nowhere = Tag {
            boxes: Some(Vec::new()),
            ..tag("dog", 0.9)
        };
        let config = r#"<View><Image name="img" value="$image"/>
            <RectangleLabels name="box" toName="img"><Label value="dog"/></RectangleLabels>
            </View>"#;
        let config = LabellingConfig::read(config).unwrap();
        let (_, results) = predicted(&[nowhere], &categories, (40, 30), &config, None);
        assert_eq!(results, Vec::<Value>::new());
        assert!((score - (0.7 + 0.9 + 0.9) / 3.0).abs() < 1e-6, "{score}");
    }
}
