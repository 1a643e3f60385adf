//! COCO's instances, and LVIS's two lists on images: `neg_category_ids` (verified absences) and
//! `not_exhaustive_category_ids` (about which silence says nothing).

use super::error::{LabelsError, record};
use super::{ImportOptions, Imported, LabelTable, file, stem};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};

#[derive(Debug, Serialize, Deserialize)]
struct File {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Image {
    id: u64,
    pub(super) file_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    coco_url: String,
    #[serde(default)]
    neg_category_ids: Vec<u64>,
    #[serde(default)]
    not_exhaustive_category_ids: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Annotation {
    #[serde(default)]
    id: Option<u64>,
    image_id: u64,
    category_id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// What a file says, every id of it being one that the file explains.
pub(super) struct Instances {
    /// Names by id.
    pub(super) categories: BTreeMap<u64, String>,
    /// Every image in the file's order, with the ids of the categories annotated in it.
    pub(super) images: Vec<(Image, BTreeSet<u64>)>,
}

/// Reads a file. This is the one reader of COCO's form.
pub(super) fn instances(input: impl Read) -> Result<Instances, LabelsError> {
    let file = serde_json::from_reader(file::unicode(input)?);
    let file: File = file.map_err(|source| LabelsError::Json {
        form: "COCO",
        source,
    })?;
    let categories = file.categories.into_iter().map(|c| (c.id, c.name));
    let categories: BTreeMap<u64, String> = categories.collect();
    let mut present: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (annotation, number) in file.annotations.iter().zip(1..) {
        let category = annotation.category_id;
        if !categories.contains_key(&category) {
            let place = format!("annotation {}", annotation.id.unwrap_or(number));
            return Err(unlisted(place, category));
        }
        let image = present.entry(annotation.image_id).or_default();
        image.insert(category);
    }
    let images = file.images.into_iter().map(|image| {
        let has = present.remove(&image.id).unwrap_or_default();
        (image, has)
    });
    let images = images.collect();
    if let Some(id) = present.keys().next() {
        let reason = "it has annotations but is not in `images`";
        return Err(record(format!("image {id}"), reason));
    }
    Ok(Instances { categories, images })
}

fn unlisted(place: String, category: u64) -> LabelsError {
    record(place, format!("category {category} is not in `categories`"))
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let file = instances(input)?;
    let names = &file.categories;
    let mut imported = Imported::default();
    for (image, has) in file.images {
        let absent = absences(&image, &has, names, options.exhaustive, &mut imported)?;
        if has.is_empty() && absent.is_empty() {
            imported.leave_out("images without any label");
            continue;
        }
        let named = |ids: &BTreeSet<u64>| ids.iter().map(|id| names[id].clone()).collect();
        let uri = match (options.uri_prefix.as_str(), image.coco_url) {
            ("", url) => url,
            (prefix, _) => format!("{prefix}{}", image.file_name),
        };
        imported.events.push(LabelEvent {
            image_id: stem(&image.file_name).into(),
            uri,
            present: named(&has),
            absent: named(&absent),
            retract: Vec::new(),
            annotator: options.annotator.clone(),
            event_time: None,
        });
    }
    Ok(imported)
}

/// The categories that an image does not have: verified ones, and all others if that is what
/// silence means.
fn absences(
    image: &Image,
    has: &BTreeSet<u64>,
    names: &BTreeMap<u64, String>,
    exhaustive: bool,
    imported: &mut Imported,
) -> Result<BTreeSet<u64>, LabelsError> {
    let place = || format!("image {}", image.id);
    let mut absent = BTreeSet::new();
    for &id in &image.neg_category_ids {
        if !names.contains_key(&id) {
            return Err(unlisted(place(), id));
        }
        if has.contains(&id) {
            let reason = format!("{:?} is annotated and in `neg_category_ids`", names[&id]);
            return Err(record(place(), reason));
        }
        absent.insert(id);
    }
    let silent = names.keys().filter(|id| exhaustive && !has.contains(id));
    for id in silent {
        if image.not_exhaustive_category_ids.contains(id) {
            imported.leave_out("categories that an image lists as not exhaustive");
        } else {
            absent.insert(*id);
        }
    }
    Ok(absent)
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let ids: BTreeMap<String, u64> = table.counts().into_keys().zip(1..).collect();
    let mut file = File {
        images: Vec::new(),
        annotations: Vec::new(),
        categories: ids
            .iter()
            .map(|(name, id)| Category {
                id: *id,
                name: name.clone(),
            })
            .collect(),
    };
    for ((id, image), number) in table.images().zip(1..) {
        let mut negatives = Vec::new();
        for (category, state, _) in image.known() {
            match state {
                LabelState::Absent => negatives.push(ids[category]),
                LabelState::Present => file.annotations.push(Annotation {
                    id: Some(file.annotations.len() as u64 + 1),
                    image_id: number,
                    category_id: ids[category],
                }),
            }
        }
        let uri = image.uri();
        let extension = uri
            .rsplit(['/', '\\'])
            .next()
            .and_then(|name| name.rsplit_once('.'))
            .map_or("jpg", |(_, extension)| extension);
        file.images.push(Image {
            id: number,
            file_name: format!("{id}.{extension}"),
            coco_url: uri.into_owned(),
            neg_category_ids: negatives,
            not_exhaustive_category_ids: Vec::new(),
        });
    }
    serde_json::to_writer(output, &file).map_err(std::io::Error::from)?;
    Ok(())
}
