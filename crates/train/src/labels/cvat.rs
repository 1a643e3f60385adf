//! CVAT's own form, `CVAT for images 1.1`: every `image` with its tags and shapes.

use super::error::{LabelsError, line};
use super::objects::{Objects, Pictures};
use super::xml::Element;
use super::{Drafts, ImportOptions, Picture, file, uri, xml};
use std::collections::BTreeSet;
use std::io::Read;
use tagstream_core::image_id::PicturePlace;

/// What the children of an image may be that carry a label of the picture.
const LABELLED: [&str; 9] = [
    "tag", "box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton",
];

pub(super) fn read(mut input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let mut text = String::new();
    file::unicode(&mut input)?.read_to_string(&mut text)?;
    let attributes = ["id", "name", "label"];
    let root = xml::document(&text, "annotations", &attributes, "CVAT's export")?;
    if let Some(track) = root.child("track") {
        let reason = "it is `CVAT for video`, whose frames have no names: export the task as \
                      `CVAT for images 1.1`";
        return Err(line(track.line, reason));
    }
    let mut pictures = Pictures::default();
    for meta in root.all("meta") {
        labels(meta, &mut pictures.categories);
    }
    for image in root.all("image") {
        let name = image.attribute("name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| {
            line(
                image.line,
                "`<image>` has no `name`, which is read as the picture",
            )
        })?;
        let mut present = BTreeSet::new();
        // Of a skeleton its own label, not those of its points.
        let shapes = image.children.iter();
        for shape in shapes.filter(|shape| LABELLED.contains(&shape.name.as_str())) {
            let label = shape.attribute("label").filter(|label| !label.is_empty());
            let label = label
                .ok_or_else(|| line(shape.line, format!("`<{}>` has no `label`", shape.name)))?;
            present.insert(label.to_owned());
        }
        let objects = Objects {
            uri: uri(&options.uri_prefix, name),
            picture: Picture::At(PicturePlace::of(name)),
            present,
            unsure: BTreeSet::new(),
        };
        let place = format!(
            "line {}: image {}",
            image.line,
            image.attribute("id").unwrap_or("?")
        );
        pictures.add(objects, place)?;
    }
    Ok(pictures.into_drafts(options))
}

/// The labels of a task or project, without those of skeletons' points.
fn labels(element: &Element, names: &mut BTreeSet<String>) {
    for child in &element.children {
        match child.name.as_str() {
            "label" if child.text_of("parent").is_none() => {
                names.extend(child.text_of("name").map(str::to_owned));
            }
            "label" => {}
            _ => labels(child, names),
        }
    }
}
