//! The forms that are known by a name. `docs/sources.md` shows a message of each.

/// A form of messages: what a [`MappingSpec`](super::MappingSpec) says where it is empty.
pub(super) struct Preset {
    pub name: &'static str,
    pub envelope: &'static str,
    pub records: &'static str,
    pub when: &'static [&'static str],
    /// Messages that stand for no image: they are passed over, and so is what is within them.
    pub passed_over: &'static [&'static str],
    pub image_id: &'static str,
    pub uri: &'static str,
    pub event_time: &'static str,
    pub attributes: &'static [(&'static str, &'static str)],
}

const PLAIN: Preset = Preset {
    name: "tagstream",
    envelope: "none",
    records: "none",
    when: &[],
    passed_over: &[],
    image_id: "/image_id",
    uri: "/uri",
    event_time: "/event_time",
    attributes: &[("*", "/attributes")],
};

const S3: Preset = Preset {
    name: "s3",
    envelope: "none",
    records: "/Records",
    // Amazon writes `ObjectCreated:Put`, MinIO and older Cephs `s3:ObjectCreated:Put`.
    when: &["/eventName ~ ObjectCreated:*, s3:ObjectCreated:*"],
    passed_over: &["/Event ~ s3:TestEvent"],
    image_id: "uri",
    uri: "s3://{/s3/bucket/name}/{/s3/object/key | url-decoded | url-encoded}",
    event_time: "/eventTime",
    attributes: &[
        ("*", "/s3/object/userMetadata"),
        ("etag", "/s3/object/eTag"),
        ("size", "/s3/object/size"),
        ("version_id", "/s3/object/versionId"),
    ],
};

const GCS: Preset = Preset {
    name: "gcs",
    envelope: "none",
    records: "none",
    when: &["header:eventType ~ OBJECT_FINALIZE"],
    passed_over: &[],
    image_id: "uri",
    uri: "gs://{/bucket}/{/name | url-encoded}",
    event_time: "/timeCreated",
    attributes: &[
        ("*", "/metadata"),
        ("content_type", "/contentType"),
        ("generation", "/generation"),
        ("size", "/size"),
    ],
};

/// All of them.
pub(super) static ALL: [Preset; 12] = [
    PLAIN,
    // Kafka Connect's JsonConverter with schemas.
    Preset {
        name: "connect",
        envelope: "/payload",
        ..PLAIN
    },
    Preset {
        name: "cloudevents",
        envelope: "cloudevents",
        image_id: "/image_id || ce:subject",
        uri: "/uri || ce:dataref",
        event_time: "/event_time || ce:time",
        attributes: &[
            ("*", "/attributes"),
            ("ce_source", "ce:source"),
            ("ce_type", "ce:type"),
        ],
        ..PLAIN
    },
    S3,
    Preset {
        name: "minio",
        ..S3
    },
    Preset { name: "ceph", ..S3 },
    // Amazon SNS without raw delivery: the notification is a text within.
    Preset {
        name: "s3-sns",
        envelope: "/Message",
        passed_over: &[
            "message:/Type ~ SubscriptionConfirmation, UnsubscribeConfirmation",
            "/Event ~ s3:TestEvent",
        ],
        ..S3
    },
    // Amazon EventBridge, where keys are as they are.
    Preset {
        name: "s3-eventbridge",
        records: "none",
        when: &["/detail-type ~ Object Created"],
        passed_over: &[],
        uri: "s3://{/detail/bucket/name}/{/detail/object/key | url-encoded}",
        event_time: "/time",
        attributes: &[
            ("etag", "/detail/object/etag"),
            ("size", "/detail/object/size"),
            ("version_id", "/detail/object/version-id"),
        ],
        ..S3
    },
    GCS,
    // The envelope in which Pub/Sub pushes.
    Preset {
        name: "gcs-pubsub",
        envelope: "/message/data | base64",
        when: &["message:/message/attributes/eventType ~ OBJECT_FINALIZE"],
        ..GCS
    },
    AZURE,
    Preset {
        name: "azure-cloudevents",
        envelope: "cloudevents",
        records: "none",
        when: &["ce:type ~ Microsoft.Storage.BlobCreated"],
        uri: "az://{ce:subject | after:/containers/ | before:/blobs/}/\
              {ce:subject | after:/containers/ | after:/blobs/ | url-encoded}",
        event_time: "ce:time",
        attributes: &[
            ("content_type", "/contentType"),
            ("etag", "/eTag"),
            ("size", "/contentLength"),
        ],
        ..AZURE
    },
];

/// Azure Event Grid's own schema, where one message holds a list of events.
const AZURE: Preset = Preset {
    name: "azure",
    envelope: "none",
    records: "#",
    when: &["/eventType ~ Microsoft.Storage.BlobCreated"],
    passed_over: &[],
    image_id: "uri",
    uri: "az://{/subject | after:/containers/ | before:/blobs/}/\
          {/subject | after:/containers/ | after:/blobs/ | url-encoded}",
    event_time: "/eventTime",
    attributes: &[
        ("content_type", "/data/contentType"),
        ("etag", "/data/eTag"),
        ("size", "/data/contentLength"),
    ],
};
