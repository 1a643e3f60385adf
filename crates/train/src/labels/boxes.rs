//! True boxes of objects, to measure found ones against: the CSV that `tagstream scenes` writes,
//! COCO's instances and Pascal VOC's annotations.

use super::error::{LabelFileError, LabelsError, line, record};
use super::objects::{below, text};
use super::voc_xml::{annotation_files, is_annotation};
use super::{json, xml};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use tagstream_core::events::BoundingBox;
use tagstream_core::image_id::{ImageNaming, PicturePlace};

/// A box as it is written: which picture, what, and where.
type Written<Picture> = (Picture, String, BoundingBox);

/// The objects of pictures, in fractions of them.
#[derive(Debug, Default, PartialEq)]
pub struct TrueBoxes {
    images: BTreeMap<String, BTreeMap<String, Vec<BoundingBox>>>,
}

impl TrueBoxes {
    /// Reads a CSV with the columns `image_id,label,x,y,w,h` (fractions of the picture), a JSON of
    /// COCO's instances, or an XML of Pascal VOC's annotations or a folder of them. Crowds and
    /// objects that are marked difficult are left out.
    ///
    /// # Errors
    /// [`LabelFileError`] names the file, the place in it and what is wrong.
    pub fn read(path: &Path) -> Result<Self, LabelFileError> {
        if path.is_dir() || is_annotation(path) {
            return voc(path);
        }
        let read = text(path)?;
        let boxes = match read.trim_start().starts_with('{') {
            true => coco(&read),
            false => csv(&read),
        };
        boxes.map_err(|error| error.at(path))
    }

    /// The pictures that are spoken of.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// The boxes of a category in a picture; none if it is not there.
    pub fn of(&self, image: &str, category: &str) -> &[BoundingBox] {
        let found = self.images.get(image).and_then(|all| all.get(category));
        found.map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, (image, category, found): Written<String>) {
        let all = self.images.entry(image).or_default();
        all.entry(category).or_default().push(found);
    }

    /// Of pictures that files speak of by their places, each named as `labels import` names it.
    fn named(written: Vec<Written<PicturePlace>>) -> Result<Self, LabelsError> {
        let mut seen = HashSet::new();
        let places = written.iter().map(|written| &written.0);
        let distinct: Vec<PicturePlace> = places
            .filter(|place| seen.insert(*place))
            .cloned()
            .collect();
        let ids = ImageNaming::default()
            .ids(&distinct)
            .map_err(|error| record("its pictures", error.to_string()))?;
        let names: HashMap<&PicturePlace, &String> = distinct.iter().zip(&ids.ids).collect();
        let mut boxes = TrueBoxes::default();
        for (place, category, found) in &written {
            boxes.add((names[place].clone(), category.clone(), *found));
        }
        Ok(boxes)
    }
}

/// A box in pixels as a part of a picture of `size`, or what is wrong with it.
fn part([x, y, w, h]: [f64; 4], size: [f64; 2]) -> Result<BoundingBox, String> {
    let sound = [x, y, w, h].iter().all(|edge| edge.is_finite());
    if !sound || w <= 0.0 || h <= 0.0 || size.iter().any(|side| *side <= 0.0) {
        return Err(format!(
            "a box at {x}, {y} of {w} x {h} in a picture of {} x {} is none",
            size[0], size[1]
        ));
    }
    Ok(BoundingBox {
        x: (x / size[0]) as f32,
        y: (y / size[1]) as f32,
        w: (w / size[0]) as f32,
        h: (h / size[1]) as f32,
    })
}

#[derive(Deserialize)]
struct CsvBox {
    image_id: String,
    label: String,
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

fn csv(text: &str) -> Result<TrueBoxes, LabelsError> {
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let mut boxes = TrueBoxes::default();
    for (row, number) in rows.deserialize().zip(2..) {
        let row: CsvBox = row.map_err(|error| {
            line(
                number,
                format!("{error}; a header and rows of image_id,label,x,y,w,h are read"),
            )
        })?;
        let found = part([row.x, row.y, row.w, row.h], [1.0, 1.0]);
        boxes.add((
            row.image_id,
            row.label,
            found.map_err(|reason| line(number, reason))?,
        ));
    }
    Ok(boxes)
}

#[derive(Deserialize)]
struct CocoFile {
    images: Vec<CocoPicture>,
    annotations: Vec<CocoObject>,
    categories: Vec<CocoName>,
}

#[derive(Deserialize)]
struct CocoPicture {
    id: Value,
    file_name: String,
    width: f64,
    height: f64,
}

#[derive(Deserialize)]
struct CocoObject {
    image_id: Value,
    category_id: Value,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: Value,
}

#[derive(Deserialize)]
struct CocoName {
    id: Value,
    name: String,
}

fn coco(text: &str) -> Result<TrueBoxes, LabelsError> {
    let file: CocoFile = serde_json::from_str(text).map_err(|source| LabelsError::Json {
        form: "COCO",
        source,
    })?;
    let id = |value: &Value| json::text(value).unwrap_or_default();
    let pictures: HashMap<String, &CocoPicture> = file
        .images
        .iter()
        .map(|picture| (id(&picture.id), picture))
        .collect();
    let names: HashMap<String, &String> = file
        .categories
        .iter()
        .map(|named| (id(&named.id), &named.name))
        .collect();
    let mut written = Vec::new();
    for (object, number) in file.annotations.iter().zip(1..) {
        if json::text(&object.iscrowd).is_some_and(|crowd| crowd != "0") {
            continue;
        }
        let place = format!("annotation number {number}");
        let picture = pictures.get(&id(&object.image_id));
        let name = names.get(&id(&object.category_id));
        let (Some(picture), Some(name)) = (picture, name) else {
            let reason = "its `image_id` or `category_id` is not listed";
            return Err(record(place, reason));
        };
        let found = part(object.bbox, [picture.width, picture.height]);
        let found = found.map_err(|reason| record(place, reason))?;
        written.push((PicturePlace::of(&picture.file_name), (*name).clone(), found));
    }
    TrueBoxes::named(written)
}

fn voc(path: &Path) -> Result<TrueBoxes, LabelFileError> {
    let found = annotation_files(path)?;
    let mut written = Vec::new();
    for file in &found {
        let mut folders = below(path, file);
        folders.pop();
        folders.retain(|folder| folder != super::voc_xml::ANNOTATIONS);
        let read = annotation(&text(file)?, &folders);
        written.extend(read.map_err(|error| error.at(file))?);
    }
    TrueBoxes::named(written).map_err(|error| error.at(path))
}

/// The boxes of one picture. VOC counts pixels from 1, and the last belongs to the object.
fn annotation(text: &str, folders: &[String]) -> Result<Vec<Written<PicturePlace>>, LabelsError> {
    let root = xml::document(text, "annotation", &[], "Pascal VOC's annotation")?;
    let missing = |at: u64, what: &str| line(at, format!("it has no number `{what}`"));
    let number = |of: &xml::Element, name: &str| -> Result<f64, LabelsError> {
        let value = of.text_of(name).and_then(|text| text.parse().ok());
        value.ok_or_else(|| missing(of.line, name))
    };
    let size = root
        .child("size")
        .ok_or_else(|| missing(root.line, "size"))?;
    let size = [number(size, "width")?, number(size, "height")?];
    let name = root.text_of("filename").map(|name| name.replace('\\', "/"));
    let name = name.ok_or_else(|| line(root.line, "it has no `<filename>`"))?;
    let place = match name.contains('/') || folders.is_empty() {
        true => name,
        false => format!("{}/{name}", folders.join("/")),
    };
    let mut boxes = Vec::new();
    for object in root.all("object") {
        if object
            .text_of("difficult")
            .is_some_and(|d| d == "1" || d == "true")
        {
            continue;
        }
        let what = object
            .text_of("name")
            .ok_or_else(|| missing(object.line, "name"))?;
        let edges = object
            .child("bndbox")
            .ok_or_else(|| missing(object.line, "bndbox"))?;
        let (left, top) = (number(edges, "xmin")? - 1.0, number(edges, "ymin")? - 1.0);
        let (right, bottom) = (number(edges, "xmax")?, number(edges, "ymax")?);
        let found = part([left, top, right - left, bottom - top], size);
        let found = found.map_err(|reason| line(edges.line, reason))?;
        boxes.push((PicturePlace::of(&place), what.to_owned(), found));
    }
    Ok(boxes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<TrueBoxes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        TrueBoxes::read(&path).map_err(|error| error.to_string())
    }

    fn cat() -> [BoundingBox; 1] {
        [BoundingBox {
            x: 0.25,
            y: 0.5,
            w: 0.5,
            h: 0.25,
        }]
    }

    #[test]
    fn the_same_object_is_read_from_all_three_forms() {
        let csv = "image_id,label,x,y,w,h,visible\na,cat,0.25,0.5,0.5,0.25,1.0\n";
        let coco = r#"{"images": [{"id": 7, "file_name": "a.jpg", "width": 200, "height": 100}],
            "categories": [{"id": 1, "name": "cat"}], "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [50, 50, 100, 25], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 1}]}"#;
        let object = |difficult: u8| {
            format!(
                "<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>51</xmin>\
                 <ymin>51</ymin><xmax>150</xmax><ymax>75</ymax></bndbox></object>"
            )
        };
        let voc = format!(
            "<annotation><filename>a.jpg</filename><size><width>200</width><height>100</height>\
             </size>{}{}</annotation>",
            object(0),
            object(1)
        );
        for (name, text) in [("b.csv", csv), ("b.json", coco), ("b.xml", &voc)] {
            let boxes = read(name, text).unwrap();
            assert_eq!(boxes.of("a", "cat"), cat(), "{name}");
            assert_eq!(boxes.images().collect::<Vec<_>>(), ["a"]);
            assert!(boxes.of("a", "dog").is_empty() && boxes.of("b", "cat").is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |name: &str, text: &str, says: &str| {
            let error = read(name, text).unwrap_err();
            assert!(error.contains(says) && error.contains(name), "{error}");
        };
        wrong(
            "b.csv",
            "image_id,label,x,y,w,h\na,cat,0.1,0.2,0,0.1\n",
            "line 2",
        );
        wrong("b.csv", "image_id,label\na,cat\n", "image_id,label,x,y,w,h");
        wrong(
            "b.json",
            r#"{"images": [], "categories": [], "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [50, 50, 100, 25]}]}"#,
            "annotation number 1",
        );
        wrong(
            "b.xml",
            "<annotation><filename>a</filename></annotation>",
            "size",
        );
    }
}
