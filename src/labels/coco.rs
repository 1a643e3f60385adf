//! COCO's instances, and LVIS's two lists on images: `neg_category_ids` (verified absences) and
//! `not_exhaustive_category_ids` (about which silence says nothing).

use super::{ImportOptions, Imported, LabelTable, LabelsError, record, stem};
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
struct Image {
    id: u64,
    file_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    coco_url: String,
    #[serde(default)]
    neg_category_ids: Vec<u64>,
    #[serde(default)]
    not_exhaustive_category_ids: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    category_id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Category {
    id: u64,
    name: String,
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let file: File = serde_json::from_reader(std::io::BufReader::new(input)).map_err(|source| {
        LabelsError::Json {
            form: "COCO",
            source,
        }
    })?;
    let names: BTreeMap<u64, String> = file
        .categories
        .into_iter()
        .map(|c| (c.id, c.name))
        .collect();
    let known = |place: String, id: u64| {
        names
            .contains_key(&id)
            .then_some(id)
            .ok_or_else(|| record(place, format!("category {id} is not in `categories`")))
    };
    let mut present: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for a in &file.annotations {
        let category = known(format!("annotation {}", a.id), a.category_id)?;
        present.entry(a.image_id).or_default().insert(category);
    }
    let mut imported = Imported::default();
    for image in file.images {
        let place = || format!("image {}", image.id);
        let has = present.remove(&image.id).unwrap_or_default();
        let mut absent = BTreeSet::new();
        for &id in &image.neg_category_ids {
            absent.insert(known(place(), id)?);
        }
        if let Some(both) = has.intersection(&absent).next() {
            let reason = format!("{:?} is annotated and in `neg_category_ids`", names[both]);
            return Err(record(place(), reason));
        }
        if options.exhaustive {
            let silent = names.keys().filter(|id| !has.contains(id));
            for id in silent {
                if image.not_exhaustive_category_ids.contains(id) {
                    imported.leave_out("categories that an image lists as not exhaustive");
                } else {
                    absent.insert(*id);
                }
            }
        }
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
    if let Some(id) = present.keys().next() {
        return Err(record(
            format!("image {id}"),
            "it has annotations but is not in `images`",
        ));
    }
    Ok(imported)
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
                    id: file.annotations.len() as u64 + 1,
                    image_id: number,
                    category_id: ids[category],
                }),
            }
        }
        let extension = image
            .uri
            .rsplit(['/', '\\'])
            .next()
            .and_then(|name| name.rsplit_once('.'))
            .map_or("jpg", |(_, extension)| extension);
        file.images.push(Image {
            id: number,
            file_name: format!("{id}.{extension}"),
            coco_url: image.uri.clone(),
            neg_category_ids: negatives,
            not_exhaustive_category_ids: Vec::new(),
        });
    }
    serde_json::to_writer(output, &file).map_err(std::io::Error::from)?;
    Ok(())
}
