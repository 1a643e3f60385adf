//! A project's labelling configuration: which controls ask about its picture, and what they offer.

use super::super::error::LabelsError;
use super::super::xml::{self, Element};

/// A control that asks about a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageControl {
    /// The control's `name` in the labelling configuration.
    pub name: String,
    /// The name of what shows the picture.
    pub to_name: String,
    /// Whether it draws rectangles; else it is a list to choose from.
    pub rectangles: bool,
    /// Whether several can be chosen.
    pub multiple: bool,
    /// What is offered: as it is shown, and as answers write it.
    pub labels: Vec<(String, String)>,
}

/// What of a labelling configuration a model can answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabellingConfig {
    /// The controls, in their order.
    pub controls: Vec<ImageControl>,
    /// The key of a task's data that holds the picture.
    pub image_key: Option<String>,
}

impl LabellingConfig {
    /// Reads the XML of a configuration.
    ///
    /// # Errors
    /// [`LabelsError`] names the line that is wrong.
    pub fn read(text: &str) -> Result<Self, LabelsError> {
        let attributes = ["name", "toName", "value", "alias", "choice"];
        let form = "a labelling configuration";
        let root = xml::document(text, "View", &attributes, form)?;
        let mut all = Vec::new();
        flatten(&root, &mut all);
        let images = all.iter().filter(|element| element.name == "Image");
        let images: Vec<(&str, Option<&str>)> = images
            .filter_map(|image| Some((image.attribute("name")?, image.attribute("value"))))
            .collect();
        let key = images.iter().find_map(|(_, value)| *value);
        let key = key.and_then(|value| value.strip_prefix('$'));
        let controls = all.iter().filter_map(|element| control(element));
        let of_image =
            |control: &ImageControl| images.iter().any(|(name, _)| *name == control.to_name);
        Ok(LabellingConfig {
            controls: controls.filter(of_image).collect(),
            image_key: key.filter(|key| !key.is_empty()).map(str::to_owned),
        })
    }
}

fn flatten<'a>(element: &'a Element, all: &mut Vec<&'a Element>) {
    all.push(element);
    for child in &element.children {
        flatten(child, all);
    }
}

fn control(element: &Element) -> Option<ImageControl> {
    let (rectangles, offered) = match element.name.as_str() {
        "Choices" => (false, "Choice"),
        "RectangleLabels" => (true, "Label"),
        _ => return None,
    };
    let mut below = Vec::new();
    flatten(element, &mut below);
    let labels = below.iter().filter(|element| element.name == offered);
    let labels = labels.filter_map(|label| {
        let shown = label.attribute("value").filter(|value| !value.is_empty())?;
        let written = label.attribute("alias").filter(|alias| !alias.is_empty());
        Some((shown.to_owned(), written.unwrap_or(shown).to_owned()))
    });
    Some(ImageControl {
        name: element.attribute("name")?.to_owned(),
        to_name: element.attribute("toName")?.to_owned(),
        rectangles,
        multiple: rectangles || element.attribute("choice") == Some("multiple"),
        labels: labels.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_of_the_picture_are_found_wherever_they_stand() {
        let text = r#"<View><Header value="x"/><View style="display: flex">
            <Image name="img" value="$photo" zoom="true"/>
            <Choices name="tags" toName="img" choice="multiple">
              <View><Choice value="cat"/></View><Choice value="Dog &amp; co" alias="dog"/>
            </Choices>
            <RectangleLabels name="boxes" toName="img"><Label value="car"/></RectangleLabels>
            <Choices name="mood" toName="text"><Choice value="sad"/></Choices>
            <Text name="text" value="$text"/><Choices name="bare"/></View></View>"#;
        let read = LabellingConfig::read(text).unwrap();
        assert_eq!(read.image_key.as_deref(), Some("photo"));
        let label = |shown: &str, written: &str| (shown.to_owned(), written.to_owned());
        let [tags, boxes] = &read.controls[..] else {
            panic!("{read:?}");
        };
        assert_eq!((tags.name.as_str(), tags.to_name.as_str()), ("tags", "img"));
        assert!(tags.multiple && !tags.rectangles);
        let offered = [label("cat", "cat"), label("Dog & co", "dog")];
        assert_eq!(tags.labels, offered);
        assert!(boxes.rectangles && boxes.labels == [label("car", "car")]);
    }

    #[test]
    fn what_is_no_configuration_is_told_with_its_line() {
        for text in ["", "<a/>", "<View>", "<View><b></View>", "<View>&x;</View>"] {
            let error = LabellingConfig::read(text).unwrap_err().to_string();
            assert!(error.contains("line"), "{text}: {error}");
        }
    }
}
