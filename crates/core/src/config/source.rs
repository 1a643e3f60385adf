//! What is read: the topics, and how their messages name images.

use super::{Flaw, Kind, choice, settings};
use crate::mapping::{Mapping, MappingError, MappingSpec};
use std::collections::BTreeMap;

settings! {
    /// The topics read.
    SourceConfig {
        /// Topic of image references.
        images_topic: String = "images".into(),
        /// Where a partition without any file starts: `earliest` or `latest`.
        start: StartAt = StartAt::Earliest,
        /// How often partition statistics (lag) are refreshed.
        statistics_interval_ms: u64 = 5_000,
        /// How the messages of the images topic name images (docs/sources.md).
        mapping: MappingConfig = MappingConfig::default(),
    }
}

choice! {
    /// Where a partition without any file starts.
    StartAt {
        /// The oldest message kept.
        Earliest = "earliest",
        /// Messages that arrive from now on.
        Latest = "latest",
    }
}

/// The names of presets; a test holds them against those that there are.
const PRESETS: Kind = Kind::OneOf(&[
    "tagstream",
    "connect",
    "cloudevents",
    "s3",
    "minio",
    "ceph",
    "s3-sns",
    "s3-eventbridge",
    "gcs",
    "gcs-pubsub",
    "azure",
    "azure-cloudevents",
]);

settings! {
    /// How the messages of the images topic name images. A place is a JSON Pointer (`/a/b`),
    /// `key`, `value`, `header:NAME`, `ce:ATTRIBUTE`, `message:/a/b` (outside of the record),
    /// `uri`, or text with places in braces (`s3://{/bucket}/{/key | url-encoded}`);
    /// docs/sources.md has the whole grammar.
    MappingConfig {
        /// A form by its name; what the keys below say stands above it.
        preset: String as PRESETS = "tagstream".into(),
        /// What the message lies in: the place of the text or object that holds it, `cloudevents`,
        /// or `none`; empty: the preset's.
        envelope: String = String::new(),
        /// The place of the list of records, `#` for a message that is one, `none` for a message
        /// that is one record; empty: the preset's.
        records: String = String::new(),
        /// Which records are images: `/eventName ~ ObjectCreated:*` and the like. All must hold; a
        /// field that is not there does not count. Empty: the preset's.
        when: Vec<String> = Vec::new(),
        /// The place of the image's name; empty: the preset's.
        image_id: String = String::new(),
        /// The place of the image's address; empty: the preset's.
        uri: String = String::new(),
        /// The place of the time; `none`: the Kafka timestamp; empty: the preset's.
        event_time: String = String::new(),
        /// Places of attributes by their names, beside the preset's (an empty place takes one
        /// away). `*` is an object whose members all are attributes; `"*" = "headers"` takes all
        /// headers.
        attributes: BTreeMap<String, String> as Kind::Entries = BTreeMap::new(),
        /// Most records of one message; one that holds more is a dead letter. Memory for all of
        /// their rows is taken before it is worked on.
        max_records: usize = 1_000,
        /// The zone of times that name none, as `+01:00`; empty: such a message is a dead letter.
        time_zone: String = "+00:00".into(),
    }
}

impl SourceConfig {
    /// What cannot be although every type is right.
    pub fn flaws(&self) -> Vec<Flaw> {
        let error = self.mapping.compile().err();
        let flaw = |e: MappingError| Flaw::new(format!("source.mapping.{}", e.key), e.reason);
        let mut flaws: Vec<Flaw> = error.map(flaw).into_iter().collect();
        if self.mapping.max_records == 0 {
            flaws.push(Flaw::new(
                "source.mapping.max_records",
                "must be at least 1",
            ));
        }
        flaws
    }
}

impl MappingConfig {
    /// The mapping.
    ///
    /// # Errors
    /// [`MappingError`] names the key.
    pub fn compile(&self) -> Result<Mapping, MappingError> {
        Mapping::new(&MappingSpec {
            preset: self.preset.clone(),
            envelope: self.envelope.clone(),
            records: self.records.clone(),
            when: self.when.clone(),
            image_id: self.image_id.clone(),
            uri: self.uri.clone(),
            event_time: self.event_time.clone(),
            attributes: self.attributes.clone(),
            time_zone: self.time_zone.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::preset_names;

    #[test]
    fn the_presets_that_can_be_named_are_those_that_there_are() {
        let Kind::OneOf(names) = PRESETS else {
            panic!("presets are a choice");
        };
        assert!(preset_names().eq(names.iter().copied()));
    }
}
