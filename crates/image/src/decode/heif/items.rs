//! The `meta` box: which items a file has, where their data lie, and what is said of them
//! (ISO/IEC 14496-12, 8.11, and ISO/IEC 23008-12).

use super::boxes::{BmffBox, Reader};
use super::fault::{ENDS_EARLY, Fault};
use std::borrow::Cow;

/// The number of an item.
pub(super) type ItemId = u32;

/// The items of a file.
#[derive(Debug)]
pub(super) struct Items<'a> {
    bytes: &'a [u8],
    /// Data that lie in the `meta` box itself.
    inside: &'a [u8],
    /// The item that the file is about.
    pub primary: ItemId,
    kinds: Vec<(ItemId, [u8; 4])>,
    places: Vec<Place>,
    properties: Vec<BmffBox<'a>>,
    /// Which properties an item has, by their index from 1, and whether a reader must know them.
    associations: Vec<(ItemId, usize, bool)>,
    references: Vec<Reference>,
}

/// Where an item's data lie.
#[derive(Debug)]
struct Place {
    item: ItemId,
    /// Whether in the `meta` box and not in the file.
    inside: bool,
    /// Offset and length; no length is all that follows.
    extents: Vec<(u64, u64)>,
}

/// What an item says of others.
#[derive(Debug)]
struct Reference {
    kind: [u8; 4],
    from: ItemId,
    to: Vec<ItemId>,
}

impl<'a> Items<'a> {
    /// Reads the boxes up to `meta`, and what is in that.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        let meta = loop {
            if reader.is_empty() {
                return Err(Fault::Unsupported(
                    "an image sequence without a still picture".into(),
                ));
            }
            let each = reader.next_box()?;
            match &each.kind {
                b"meta" => break each.content,
                b"mini" => {
                    return Err(Fault::Unsupported(
                        "a container of the short form (mini)".into(),
                    ));
                }
                _ => {}
            }
        };
        let mut items = Items {
            bytes,
            inside: &[],
            primary: 0,
            kinds: Vec::new(),
            places: Vec::new(),
            properties: Vec::new(),
            associations: Vec::new(),
            references: Vec::new(),
        };
        let mut reader = Reader::new(meta);
        reader.version()?;
        let mut has_primary = false;
        while !reader.is_empty() {
            let BmffBox { kind, content } = reader.next_box()?;
            let mut content_reader = Reader::new(content);
            match &kind {
                b"pitm" => {
                    items.primary = primary(&mut content_reader)?;
                    has_primary = true;
                }
                b"iinf" => items.read_kinds(&mut content_reader)?,
                b"iloc" => items.read_places(&mut content_reader)?,
                b"iprp" => items.read_properties(&mut content_reader)?,
                b"iref" => items.read_references(&mut content_reader)?,
                b"idat" => items.inside = content,
                _ => {}
            }
        }
        match has_primary {
            true => Ok(items),
            false => Err(Fault::Damaged("it does not say which picture it is about")),
        }
    }

    /// The kind of an item.
    pub(super) fn kind(&self, item: ItemId) -> Result<[u8; 4], Fault> {
        let found = self.kinds.iter().find(|(id, _)| *id == item);
        let (_, kind) = found.ok_or(Fault::Damaged("it names an item that it does not have"))?;
        Ok(*kind)
    }

    /// An item's data.
    pub(super) fn data(&self, item: ItemId) -> Result<Cow<'a, [u8]>, Fault> {
        let place = self.places.iter().find(|place| place.item == item);
        let place = place.ok_or(Fault::Damaged("it does not say where a picture's data lie"))?;
        let source = if place.inside {
            self.inside
        } else {
            self.bytes
        };
        let part = |&(offset, length): &(u64, u64)| {
            let rest = source.get(usize::try_from(offset).ok()?..)?;
            match length {
                0 => Some(rest),
                length => rest.get(..usize::try_from(length).ok()?),
            }
        };
        let parts: Option<Vec<&[u8]>> = place.extents.iter().map(part).collect();
        let parts = parts.ok_or(ENDS_EARLY)?;
        if let [one] = parts[..] {
            return Ok(Cow::Borrowed(one));
        }
        // Parts may overlap: together they are no more than the file all the same.
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.bytes.len() {
            return Err(Fault::Damaged("parts of its data overlap"));
        }
        Ok(Cow::Owned(parts.concat()))
    }

    /// What is said of an item, in the file's order, with whether a reader must know it.
    pub(super) fn properties(
        &self,
        item: ItemId,
    ) -> impl Iterator<Item = Result<(BmffBox<'a>, bool), Fault>> {
        let own = self.associations.iter().filter(move |(id, ..)| *id == item);
        own.filter(|(_, index, _)| *index > 0)
            .map(|&(_, index, essential)| {
                let property = self.properties.get(index - 1).copied();
                let property =
                    property.ok_or(Fault::Damaged("it names a property that it lacks"))?;
                Ok((property, essential))
            })
    }

    /// The items that `item` refers to in this way.
    pub(super) fn referred(&self, item: ItemId, kind: &[u8; 4]) -> &[ItemId] {
        let mut all = self.references.iter();
        let found = all.find(|reference| reference.from == item && reference.kind == *kind);
        found.map_or(&[], |reference| &reference.to)
    }

    /// The items that refer to `item` in this way.
    pub(super) fn referring(&self, item: ItemId, kind: &[u8; 4]) -> impl Iterator<Item = ItemId> {
        let all = self.references.iter();
        all.filter(move |reference| reference.kind == *kind && reference.to.contains(&item))
            .map(|reference| reference.from)
    }

    fn read_kinds(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let (version, _) = reader.version()?;
        let count = reader.number(if version == 0 { 2 } else { 4 })?;
        for _ in 0..count {
            let entry = reader.next_box()?;
            if &entry.kind != b"infe" {
                continue;
            }
            let mut entry = Reader::new(entry.content);
            let (version, _) = entry.version()?;
            if version < 2 {
                continue;
            }
            let item = entry.number(if version == 2 { 2 } else { 4 })? as ItemId;
            entry.u16()?;
            self.kinds.push((item, entry.kind()?));
        }
        Ok(())
    }

    fn read_places(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let (version, _) = reader.version()?;
        let sizes = reader.u16()?;
        let size = |shift: u16| usize::from(sizes >> shift & 15);
        let (of_offset, of_length, of_base) = (size(12), size(8), size(4));
        let of_index = if version == 0 { 0 } else { size(0) };
        if [of_offset, of_length, of_base, of_index]
            .iter()
            .any(|size| *size > 8)
        {
            return Err(Fault::Damaged("its offsets are of no size that there is"));
        }
        let of_item = if version < 2 { 2 } else { 4 };
        let count = reader.number(of_item)?;
        for _ in 0..count {
            let item = reader.number(of_item)? as ItemId;
            let method = if version == 0 { 0 } else { reader.u16()? & 15 };
            let elsewhere = reader.u16()? != 0;
            let base = reader.number(of_base)?;
            let extents = reader.u16()?;
            // Else a few bytes would stand for very many of them.
            if extents > 1 && of_offset + of_length == 0 {
                return Err(Fault::Damaged("parts of its data have no place"));
            }
            let mut place = Place {
                item,
                inside: method == 1,
                extents: Vec::new(),
            };
            for _ in 0..extents {
                reader.number(of_index)?;
                let (offset, length) = (reader.number(of_offset)?, reader.number(of_length)?);
                place.extents.push((base.saturating_add(offset), length));
            }
            // What lies in other files or items is missing to whoever asks for it.
            if method <= 1 && !elsewhere {
                self.places.push(place);
            }
        }
        Ok(())
    }

    fn read_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        while !reader.is_empty() {
            let each = reader.next_box()?;
            let mut content = Reader::new(each.content);
            match &each.kind {
                b"ipco" => {
                    while !content.is_empty() {
                        self.properties.push(content.next_box()?);
                    }
                }
                b"ipma" => self.read_associations(&mut content)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_associations(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let (version, flags) = reader.version()?;
        let count = reader.u32()?;
        for _ in 0..count {
            let item = reader.number(if version == 0 { 2 } else { 4 })? as ItemId;
            for _ in 0..reader.u8()? {
                let (index, essential) = match flags & 1 {
                    0 => {
                        let both = reader.u8()?;
                        (usize::from(both & 0x7f), both & 0x80 != 0)
                    }
                    _ => {
                        let both = reader.u16()?;
                        (usize::from(both & 0x7fff), both & 0x8000 != 0)
                    }
                };
                self.associations.push((item, index, essential));
            }
        }
        Ok(())
    }

    fn read_references(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let (version, _) = reader.version()?;
        let of_item = if version == 0 { 2 } else { 4 };
        while !reader.is_empty() {
            let each = reader.next_box()?;
            let mut content = Reader::new(each.content);
            let from = content.number(of_item)? as ItemId;
            let count = content.u16()?;
            let to = (0..count).map(|_| Ok(content.number(of_item)? as ItemId));
            self.references.push(Reference {
                kind: each.kind,
                from,
                to: to.collect::<Result<_, Fault>>()?,
            });
        }
        Ok(())
    }
}

fn primary(reader: &mut Reader<'_>) -> Result<ItemId, Fault> {
    let (version, _) = reader.version()?;
    Ok(reader.number(if version == 0 { 2 } else { 4 })? as ItemId)
}
