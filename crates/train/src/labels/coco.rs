//! COCO's instances, and LVIS's two lists on images: `neg_category_ids` (verified absences) and
//! `not_exhaustive_category_ids` (about which silence says nothing). Categories of one name are
//! one. A category that groups others (Roboflow's root) is absent only where none of them is
//! annotated, and nowhere if it is never annotated itself.

use super::error::{LabelsError, record};
use super::label_studio::{locate, without_upload_prefix};
use super::{Drafts, ImportOptions, LabelTable, Picture, file, uri};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{BufRead, Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};
use tagstream_core::image_id::{is_address, is_extension};

/// Who wrote a file whose names begin as its uploads do.
const LABEL_STUDIO: &str = "Label Studio";

/// An id: a number, whole whatever its form, or text. Numbers come first, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Number(number) => number.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl Visitor<'_> for Ids {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id (a whole number or text)")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                let whole = i64::try_from(number);
                Ok(whole.map_or_else(|_| Id::Text(number.to_string()), Id::Number))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id::Number(number))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Id, E> {
                match number.fract() == 0.0 && number.abs() < 9e15 {
                    true => Ok(Id::Number(number as i64)),
                    false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
                // `"7"` and 7 are one id, `"007"` is a name.
                match text.parse::<i64>() {
                    Ok(number) if number.to_string() == text => Ok(Id::Number(number)),
                    _ => Ok(Id::Text(text.to_owned())),
                }
            }
        }
        deserializer.deserialize_any(Ids)
    }
}

#[derive(Debug, Deserialize)]
struct CocoFile {
    #[serde(default)]
    info: Option<serde_json::Value>,
    images: Option<Vec<CocoImage>>,
    annotations: Option<Vec<Annotation>>,
    categories: Option<Vec<Category>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct CocoImage {
    id: Option<Id>,
    file_name: Option<String>,
    coco_url: Option<String>,
    /// Written by [`write()`] alone: the picture's name as it is.
    tagstream_id: Option<String>,
    neg_category_ids: Option<Vec<Id>>,
    not_exhaustive_category_ids: Option<Vec<Id>>,
}

impl CocoImage {
    /// Where the picture is: the file's name, or the address where LVIS has nothing else.
    pub(super) fn path(&self) -> Option<&str> {
        let told = [&self.file_name, &self.coco_url].into_iter().flatten();
        told.map(|text| text.trim()).find(|text| !text.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct Annotation {
    id: Option<Id>,
    image_id: Option<Id>,
    category_id: Option<Id>,
    /// Of panoptic files.
    segments_info: Option<Vec<Segment>>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    category_id: Option<Id>,
}

#[derive(Debug, Deserialize)]
struct Category {
    id: Option<Id>,
    name: Option<serde_json::Value>,
    supercategory: Option<serde_json::Value>,
}

/// What a file says, every id of it being one that the file explains. Categories are names.
pub(super) struct Instances {
    /// Every category, in the order of the ids.
    pub(super) categories: Vec<String>,
    /// The categories that each grouping category groups.
    groups: BTreeMap<String, BTreeSet<String>>,
    /// Categories annotated anywhere.
    annotated: BTreeSet<String>,
    /// Every image in the file's order, with what is said of it.
    pub(super) images: Vec<CocoLabels>,
    /// File names begin as Label Studio's uploads do.
    uploaded: bool,
}

/// What is said of an image.
pub(super) struct CocoLabels {
    pub(super) image: CocoImage,
    pub(super) place: String,
    pub(super) has: BTreeSet<String>,
    negative: BTreeSet<String>,
    not_exhaustive: BTreeSet<String>,
}

/// Reads a file. This is the one reader of COCO's form.
pub(super) fn instances(input: impl Read) -> Result<Instances, LabelsError> {
    let form = "COCO";
    let mut input = file::unicode(input)?;
    if input.fill_buf()?.trim_ascii_start().starts_with(b"[") {
        let reason = "it is a list; COCO's object of `images`, `annotations` and `categories` is \
                      read (lists of results are predictions, not labels)";
        return Err(record("line 1", reason));
    }
    let file = serde_json::from_reader(input);
    let file: CocoFile = file.map_err(|source| LabelsError::Json { form, source })?;
    let missing = |key: &str| {
        let reason = "it is missing; COCO's `images`, `annotations` and `categories` are read";
        record(format!("`{key}`"), reason)
    };
    let categories = categories(file.categories.ok_or_else(|| missing("categories"))?)?;
    let annotations = file.annotations.ok_or_else(|| missing("annotations"))?;
    let mut present = present(annotations, &categories.names)?;
    let annotated = present.values().flatten().cloned().collect();
    let mut images: Vec<CocoLabels> = Vec::new();
    let mut seen: HashMap<Id, usize> = HashMap::new();
    for (mut image, number) in file
        .images
        .ok_or_else(|| missing("images"))?
        .into_iter()
        .zip(1..)
    {
        let id = image.id.take();
        let id = id.ok_or_else(|| record(format!("image number {number}"), "it has no `id`"))?;
        let place = format!("image {id}");
        if let Some(&before) = seen.get(&id) {
            if images[before].image.path() != image.path() {
                return Err(record(place, "two entries of `images` have this id"));
            }
            continue;
        }
        let named = |ids: Option<Vec<Id>>| {
            let ids = ids.unwrap_or_default().into_iter();
            let names = ids.map(|id| named(&categories.names, &id, &place));
            names.collect::<Result<BTreeSet<String>, LabelsError>>()
        };
        seen.insert(id.clone(), images.len());
        images.push(CocoLabels {
            has: present.remove(&id).unwrap_or_default(),
            negative: named(image.neg_category_ids.take())?,
            not_exhaustive: named(image.not_exhaustive_category_ids.take())?,
            image,
            place,
        });
    }
    if let Some(id) = present.keys().next() {
        let reason = "it has annotations but is not in `images`";
        return Err(record(format!("image {id}"), reason));
    }
    let contributor = file.info.as_ref().and_then(|info| info.get("contributor"));
    Ok(Instances {
        uploaded: contributor.is_some_and(|who| who == LABEL_STUDIO),
        categories: categories.order,
        groups: categories.groups,
        annotated,
        images,
    })
}

/// The categories of each image.
fn present(
    annotations: Vec<Annotation>,
    names: &BTreeMap<Id, String>,
) -> Result<BTreeMap<Id, BTreeSet<String>>, LabelsError> {
    let mut present: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
    for (annotation, number) in annotations.into_iter().zip(1..) {
        let place = match &annotation.id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotation number {number}"),
        };
        let segments = annotation.segments_info.into_iter().flatten();
        let mut ids: Vec<Id> = segments.filter_map(|segment| segment.category_id).collect();
        ids.extend(annotation.category_id);
        if ids.is_empty() {
            let reason = "it has no `category_id` (captions and keypoints alone are no labels)";
            return Err(record(place, reason));
        }
        let image = annotation.image_id;
        let image = image.ok_or_else(|| record(place.as_str(), "it has no `image_id`"))?;
        let of = present.entry(image).or_default();
        for id in ids {
            of.insert(named(names, &id, &place)?);
        }
    }
    Ok(present)
}

fn named(names: &BTreeMap<Id, String>, id: &Id, place: &str) -> Result<String, LabelsError> {
    let unlisted = || record(place, format!("category {id} is not in `categories`"));
    names.get(id).cloned().ok_or_else(unlisted)
}

struct Categories {
    names: BTreeMap<Id, String>,
    /// Every name once, in the order of the ids.
    order: Vec<String>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

fn categories(listed: Vec<Category>) -> Result<Categories, LabelsError> {
    let mut names: BTreeMap<Id, String> = BTreeMap::new();
    let mut above: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (category, number) in listed.into_iter().zip(1..) {
        let place = format!("category number {number}");
        let id = category
            .id
            .ok_or_else(|| record(place.as_str(), "it has no `id`"))?;
        let name = category.name.as_ref().and_then(super::json::text);
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
            record(
                format!("category {id}"),
                "it has no `name`, which is read as the label",
            )
        })?;
        if let Some(other) = names
            .insert(id.clone(), name.clone())
            .filter(|o| *o != name)
        {
            let reason = format!("it is called both {other:?} and {name:?}");
            return Err(record(format!("category {id}"), reason));
        }
        let group = category.supercategory.as_ref().and_then(super::json::text);
        if let Some(group) = group.filter(|group| *group != name) {
            above.entry(group).or_default().insert(name);
        }
    }
    let mut order: Vec<String> = Vec::new();
    let mut known = BTreeSet::new();
    for name in names.values() {
        if known.insert(name.clone()) {
            order.push(name.clone());
        }
    }
    let groups = above.into_iter().filter(|(group, _)| known.contains(group));
    Ok(Categories {
        groups: groups.collect(),
        names,
        order,
    })
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let file = instances(input)?;
    let mut drafts = Drafts::default();
    // A file may list a picture several times; what is said of it is one event.
    let mut said: Vec<(Picture, LabelEvent, BTreeSet<String>, BTreeSet<String>)> = Vec::new();
    let mut of: HashMap<Picture, usize> = HashMap::new();
    for labels in &file.images {
        if let Some(both) = labels.has.intersection(&labels.negative).next() {
            let reason = format!("{both:?} is annotated and in `neg_category_ids`");
            return Err(record(labels.place.as_str(), reason));
        }
        let (picture, uri) = picture(labels, file.uploaded, options)?;
        let at = *of.entry(picture.clone()).or_insert_with(|| {
            let event = LabelEvent {
                annotator: options.annotator.clone(),
                ..LabelEvent::about("", uri)
            };
            said.push((picture, event, BTreeSet::new(), BTreeSet::new()));
            said.len() - 1
        });
        let (_, _, has, not) = &mut said[at];
        has.extend(labels.has.iter().cloned());
        not.extend(absences(labels, &file, options.exhaustive, &mut drafts));
    }
    for (picture, event, has, mut not) in said {
        not.retain(|name| !has.contains(name));
        if has.is_empty() && not.is_empty() {
            drafts.leave_out("images without any label");
            continue;
        }
        let event = LabelEvent {
            present: has.into_iter().collect(),
            absent: not.into_iter().collect(),
            ..event
        };
        drafts.say(picture, event);
    }
    Ok(drafts)
}

/// Which picture an image is, and its address.
fn picture(
    labels: &CocoLabels,
    uploaded: bool,
    options: &ImportOptions,
) -> Result<(Picture, String), LabelsError> {
    let image = &labels.image;
    let path = image.path().ok_or_else(|| {
        let reason = "it has neither `file_name` nor `coco_url`, which are read as where it is";
        record(labels.place.as_str(), reason)
    })?;
    // Its own exports name the address of a file that Label Studio has not fetched.
    let mut located = locate(path, &options.uri_prefix);
    if uploaded && located.place.path == path && !is_address(path) {
        let plain = path.replace('\\', "/");
        let below = plain.strip_prefix("images/").unwrap_or(&plain);
        located.place.path = without_upload_prefix(below).to_owned();
        located.uri = uri(&options.uri_prefix, &located.place.path);
    }
    // An address that is told counts, unless one is asked for by a prefix.
    let url = image.coco_url.as_deref().unwrap_or_default();
    if options.uri_prefix.is_empty() && is_address(url) {
        located.uri = url.to_owned();
    }
    let told = image.tagstream_id.as_ref().filter(|id| !id.is_empty());
    let picture = told.map_or(Picture::At(located.place), |id| Picture::Id(id.clone()));
    Ok((picture, located.uri))
}

/// The categories that an image does not have: verified ones, and all others if that is what
/// silence means.
fn absences(
    labels: &CocoLabels,
    file: &Instances,
    exhaustive: bool,
    drafts: &mut Drafts,
) -> BTreeSet<String> {
    let mut absent = labels.negative.clone();
    let silent = file
        .categories
        .iter()
        .filter(|name| exhaustive && !labels.has.contains(*name));
    for name in silent {
        let group = file.groups.get(name);
        if labels.not_exhaustive.contains(name) {
            drafts.leave_out("categories that an image lists as not exhaustive");
        } else if group.is_some() && !file.annotated.contains(name) {
            drafts.leave_out("absences of supercategories (they only group others)");
        } else if group.is_some_and(|below| below.iter().any(|name| labels.has.contains(name))) {
            drafts.leave_out("absences of supercategories of what is there");
        } else {
            absent.insert(name.clone());
        }
    }
    absent
}

#[derive(Serialize)]
struct WrittenFile {
    images: Vec<WrittenImage>,
    annotations: Vec<serde_json::Value>,
    categories: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct WrittenImage {
    id: u64,
    file_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    coco_url: String,
    tagstream_id: String,
    neg_category_ids: Vec<u64>,
    not_exhaustive_category_ids: [u64; 0],
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let ids: BTreeMap<String, u64> = table.counts().into_keys().zip(1..).collect();
    let category = |(name, id)| serde_json::json!({"id": id, "name": name});
    let mut file = WrittenFile {
        images: Vec::new(),
        annotations: Vec::new(),
        categories: ids.iter().map(category).collect(),
    };
    for ((id, image), number) in table.images().zip(1..) {
        let mut negatives = Vec::new();
        for (category, state, _) in image.known() {
            match state {
                LabelState::Absent => negatives.push(ids[category]),
                LabelState::Present => file.annotations.push(serde_json::json!({
                    "id": file.annotations.len() + 1,
                    "image_id": number,
                    "category_id": ids[category],
                })),
            }
        }
        let name = image.address().rsplit(['/', '\\']).next();
        let extension = name.and_then(|name| name.rsplit_once('.'));
        let extension = extension.map(|(_, extension)| extension);
        let extension = extension.filter(|extension| is_extension(extension));
        file.images.push(WrittenImage {
            id: number,
            file_name: format!("{id}.{}", extension.unwrap_or("jpg")),
            coco_url: image.address().to_owned(),
            tagstream_id: id.to_owned(),
            neg_category_ids: negatives,
            not_exhaustive_category_ids: [],
        });
    }
    serde_json::to_writer(output, &file).map_err(std::io::Error::from)?;
    Ok(())
}
