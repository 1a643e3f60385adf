//! What is read: the topics, and how their messages name images.

use super::{Flaw, Kind, Secret, choice, settings};
use crate::mapping::{Mapping, MappingError, MappingSpec};
use std::collections::BTreeMap;

settings! {
    /// The topics read.
    SourceConfig {
        /// Topic of image references.
        images_topic: String = "images".into(),
        /// Several of them, in the place of `images_topic`: names, and patterns (regular
        /// expressions that begin with `^`), whose topics are looked for again every 30 s.
        topics: Vec<String> = Vec::new(),
        /// Where a partition without any file starts: `earliest` or `latest`.
        start: StartAt = StartAt::Earliest,
        /// How often partition statistics (lag) are refreshed.
        statistics_interval_ms: u64 = 5_000,
        /// How the messages of the images topic name images (docs/sources.md).
        mapping: MappingConfig = MappingConfig::default(),
        /// The schema registry that messages of the images and labels topics are framed for.
        registry: SchemaRegistryConfig = SchemaRegistryConfig::default(),
    }
}

settings! {
    /// The schema registry that messages of the images and labels topics are framed for
    /// (Confluent's wire format). Their values, in Avro, Protobuf or JSON by JSON Schema, are read
    /// as JSON, keys as text.
    SchemaRegistryConfig {
        /// Its address, as `https://registry:8081`; empty: none, and framed messages are refused.
        url: String = String::new(),
        /// User name or API key; empty: none.
        user: String = String::new(),
        /// Password or API secret of `user`.
        password: Secret = Secret::default(),
        /// Bearer token, instead of a user; empty: none.
        token: Secret = Secret::default(),
        /// File of certificates (PEM) that its own is checked by, beside those of the system;
        /// empty: none.
        ca_file: String = String::new(),
        /// File of the certificate (PEM) that is shown to a registry that asks for one, with
        /// `key_file`; empty: none.
        certificate_file: String = String::new(),
        /// File of the private key (PEM, without a password) of `certificate_file`.
        key_file: String = String::new(),
        /// What becomes of messages whose schema the registry does not know: `wait`, for most
        /// likely it is the wrong registry, or `dead_letter`.
        unknown_id: UnknownId = UnknownId::Wait,
    }
}

choice! {
    /// What becomes of messages whose schema the registry does not know.
    UnknownId {
        /// They wait until it does, and `/health/readyz` says so.
        Wait = "wait",
        /// They are dead letters.
        DeadLetter = "dead_letter",
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
    /// The topics of images as they are written, each with its key.
    pub fn image_topics(&self) -> Vec<(&'static str, &str)> {
        match &self.topics[..] {
            [] => vec![("images_topic", &self.images_topic)],
            topics => topics.iter().map(|topic| ("topics", &**topic)).collect(),
        }
    }

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
        flaws.extend(self.registry.flaw());
        flaws
    }
}

impl SchemaRegistryConfig {
    fn flaw(&self) -> Option<Flaw> {
        let (user, token) = (!self.user.is_empty(), !self.token.expose().is_empty());
        let own = (!self.certificate_file.is_empty(), !self.key_file.is_empty());
        let files = own.0 || own.1 || !self.ca_file.is_empty();
        let (key, reason) = match &*self.url {
            "" if user || token || files => (
                "url",
                "is empty, but other keys of [source.registry] are not",
            ),
            "" => return None,
            url if !url.starts_with("http://") && !url.starts_with("https://") => {
                ("url", "must begin with http:// or https://")
            }
            url if host_part(url).contains('@') => (
                "url",
                "holds a user name or a password: they belong into `source.registry.user` and \
                 `password`",
            ),
            url if own.0 && url.starts_with("http://") => (
                "url",
                "must begin with https:// where `certificate_file` is set",
            ),
            _ if own == (true, false) => ("key_file", "is empty: `certificate_file` needs it"),
            _ if own == (false, true) => ("certificate_file", "is empty: `key_file` needs it"),
            _ if user && token => ("token", "cannot stand beside `source.registry.user`"),
            _ if !user && !self.password.expose().is_empty() => {
                ("password", "needs `source.registry.user`")
            }
            _ => return None,
        };
        Some(Flaw::new(format!("source.registry.{key}"), reason))
    }
}

/// What stands between an address's scheme and its path.
fn host_part(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
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
