//! The configuration of the pages: a TOML file, then `TAGSTREAM_*` environment variables.
//!
//! Every key stands, commented with its default, in `configs/serve.toml`; a test proves it.

use super::addresses::{Network, stage_url};
use crate::retrain::config::RegistryConfig;
use std::net::IpAddr;
use tagstream_core::config::{
    Configuration, DecodeConfig, FetchConfig, Flaw, KafkaConfig, LogConfig, ObjectStoreConfig,
    Provider, Shape, address_flaw, settings,
};
use tagstream_core::image_id::IdRule;

settings! {
    /// `tagstream serve --config`: everything the pages can be told.
    ServeConfig {
        /// Where the pages are served.
        serve: ListenConfig = ListenConfig::default(),
        /// Who may see them, and who may act.
        access: AccessConfig = AccessConfig::default(),
        /// Where models are kept.
        registry: RegistryConfig = RegistryConfig::default(),
        /// Where the stage keeps its tables.
        tables: TablesConfig = TablesConfig::default(),
        /// The broker: as in stage.toml; its group is not used.
        kafka: KafkaConfig = KafkaConfig::default(),
        /// Topics that the pages write to and read.
        topics: TopicsConfig = TopicsConfig::default(),
        /// The stages that are watched.
        stages: StagesConfig = StagesConfig::default(),
        /// The page on which pictures are labelled.
        review: ReviewConfig = ReviewConfig::default(),
        /// The model over HTTP.
        inference: InferenceConfig = InferenceConfig::default(),
        /// Label Studio's webhook, and what it asks an ML backend for.
        label_studio: LabelStudioConfig = LabelStudioConfig::default(),
        /// How pictures are fetched, and from where they may be: as in stage.toml.
        fetch: FetchConfig = FetchConfig::default(),
        /// How pictures are decoded: as in stage.toml.
        decode: DecodeConfig = DecodeConfig::default(),
        /// Credentials and options of object stores, by URL scheme: as in stage.toml; where a key
        /// is missing the usual environment variables count.
        object_store: ObjectStoreConfig = ObjectStoreConfig::default(),
        /// How log lines look, and which are written.
        log: LogConfig = LogConfig::default(),
    }
}

settings! {
    /// Where the pages are served.
    ListenConfig {
        /// Address to listen on. Anything but loopback needs `access.token_file` or
        /// `access.proxy_header`.
        bind: String = "127.0.0.1:9480".into(),
        /// Names by which browsers reach the pages beside the address itself and `localhost`, as
        /// `tags.example.org` or `tags.example.org:8443`. A request with another name is refused:
        /// a foreign page could have made its own name point here.
        hosts: Vec<String> = Vec::new(),
        /// Most connections at a time; above it the one that has been quiet for longest is closed.
        max_connections: usize = 256,
        /// Most connections that one address (of IPv6: one /64) may open a second, over 16 seconds;
        /// those beyond are closed unread. 0: as many as it likes.
        connections_per_second: u32 = 100,
        /// A connection on which no answer was sent for this long is closed, whatever it waits for.
        idle_timeout_ms: u64 = 60_000,
    }
}

settings! {
    /// Who may see the pages, and who may act (promote, roll back, label).
    AccessConfig {
        /// File of tokens, a line each: `read NAME TOKEN` or `act NAME TOKEN`. It is read again
        /// when it changes; a token that is gone ends the sessions that it began.
        token_file: String = String::new(),
        /// Header by which a trusted proxy says who asks, as `X-Forwarded-User`.
        proxy_header: String = String::new(),
        /// Networks that the proxy asks from, as `10.0.0.7` or `10.0.0.0/24`. Whoever else sends
        /// the header is not believed.
        proxy_networks: Vec<String> = Vec::new(),
        /// Names that may act when the proxy names them; `*` for all. Others may read.
        proxy_act: Vec<String> = Vec::new(),
        /// Whether browsers reach the pages by https only, through a proxy that ends TLS: the
        /// session's cookie is then never sent without it.
        https: bool = false,
        /// A session ends when it was not used for this long, hours.
        session_hours: u64 = 12,
        /// Most requests a minute of one address (behind the proxy: of one name).
        requests_a_minute: u32 = 2_400,
        /// Most acts a minute of one name; failed logins of one address count alike.
        acts_a_minute: u32 = 240,
        /// Whose name stands on what is done from loopback, where nobody is asked for one.
        local_name: String = "local".into(),
    }
}

settings! {
    /// Where the stage keeps its tables.
    TablesConfig {
        /// The stage's `output.url`; empty: no newest pictures, no review, no search.
        url: String = String::new(),
        /// The predictions table, below `url`.
        predictions: String = "predictions".into(),
        /// The label table, below `url`.
        labels: String = "labels".into(),
    }
}

settings! {
    /// Topics that the pages write to and read.
    TopicsConfig {
        /// Topic that answers are written to, the stage's `labels.topic`; empty: nothing can be
        /// labelled.
        labels: String = String::new(),
        /// The stage's `output.dead_letter_topic`, for causes and pictures of the newest dead
        /// letters; empty: only their numbers are shown.
        dead_letters: String = String::new(),
    }
}

settings! {
    /// The stages that are watched.
    StagesConfig {
        /// Where each stage serves its metrics (its `http.bind`): `127.0.0.1:9464`, or an http
        /// address.
        addresses: Vec<String> = Vec::new(),
        /// How often they are asked.
        interval_ms: u64 = 1_000,
        /// How often the predictions table is looked at for new pictures.
        pictures_interval_ms: u64 = 5_000,
    }
}

settings! {
    /// The page on which pictures are labelled.
    ReviewConfig {
        /// Pictures that are chosen at once.
        count: usize = 200,
        /// Share of them that is asked about for measuring, in the mixed order.
        measure: f64 = 0.2,
        /// A picture that was put before somebody is put before nobody else for this long.
        hold_s: u64 = 300,
        /// How often the label table is read again for what is known.
        refresh_s: u64 = 60,
    }
}

settings! {
    /// Label Studio: how its tasks and annotations are read, as `tagstream labels import` is told.
    LabelStudioConfig {
        /// Folder that keeps what each annotation said: what is changed or deleted there is taken
        /// back here. It must outlive this process; empty: the webhook is not taken.
        state: String = String::new(),
        /// The key of a task's data that holds the picture; empty: `image`, or the only one that
        /// looks so.
        image_key: String = String::new(),
        /// Read these controls alone; empty: all of them.
        controls: Vec<String> = Vec::new(),
        /// The control whose choices mean absence; empty: `absent`.
        absent_control: String = String::new(),
        /// The annotation is exhaustive: what is unchecked is absent.
        exhaustive: bool = false,
        /// What a picture is called: `path`, `uri`, `stem` or `sha256`; empty: by its path, and
        /// what a task calls `image_id` is taken as it is.
        id: String = String::new(),
        /// What stands before the path in addresses and is no part of a name.
        root: String = String::new(),
        /// Put before what is only a path to make addresses, as `s3://bucket/photos/`.
        uri_prefix: String = String::new(),
    }
}

settings! {
    /// The model over HTTP: `/v1/tag`, `/v1/embed`, `/v2/...`, and search by words.
    InferenceConfig {
        /// Whether the model that serves is loaded into this process, too.
        enabled: bool = false,
        /// `cpu`, `cuda`, `tensorrt` or `auto`.
        provider: Provider = Provider::Cpu,
        /// Device number for `cuda` and `tensorrt`.
        device: u32 = 0,
        /// Inference workers; 0: as many as a stage has.
        workers: usize = 1,
        /// Largest batch.
        max_batch: usize = 16,
        /// Longest time that a ready picture waits for others to join its batch.
        max_delay_ms: u64 = 5,
        /// Requests at a time; more are told to come again.
        most_waiting: usize = 64,
        /// Bytes of pictures that are held at a time, MiB.
        memory_mib: u64 = 256,
    }
}

impl ServeConfig {
    /// Whether the pages can be reached from this machine alone.
    pub fn is_local(&self) -> bool {
        let host = self
            .serve
            .bind
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    fn access_flaws(&self) -> Vec<Flaw> {
        let access = &self.access;
        let (tokens, proxy) = (
            !access.token_file.is_empty(),
            !access.proxy_header.is_empty(),
        );
        let mut flaws = Vec::new();
        if !self.is_local() && !tokens && !proxy {
            flaws.push(Flaw::new(
                "serve.bind",
                "is no loopback address, and nobody would be asked who they are: set \
                 `access.token_file` or `access.proxy_header`, or listen on 127.0.0.1",
            ));
        }
        if proxy && access.proxy_networks.is_empty() {
            flaws.push(Flaw::new(
                "access.proxy_networks",
                "is empty: anybody could send `access.proxy_header`; name the proxy's address",
            ));
        }
        let is_name = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if !access.proxy_header.bytes().all(is_name) {
            let reason = "is no name of a header (letters, digits, `-`, `_`)";
            flaws.push(Flaw::new("access.proxy_header", reason));
        }
        let wrong = |text: &&String| Network::parse(text).is_none();
        if let Some(text) = access.proxy_networks.iter().find(wrong) {
            let reason = format!("has `{text}`, which is no address and no network (10.0.0.0/24)");
            flaws.push(Flaw::new("access.proxy_networks", reason));
        }
        for (key, zero) in [
            ("access.session_hours", access.session_hours == 0),
            ("access.requests_a_minute", access.requests_a_minute == 0),
            ("access.acts_a_minute", access.acts_a_minute == 0),
        ] {
            if zero {
                flaws.push(Flaw::new(key, "must be at least 1"));
            }
        }
        if access.local_name.trim().is_empty() {
            let reason = "is empty: the registry's history says who decided";
            flaws.push(Flaw::new("access.local_name", reason));
        }
        flaws
    }
}

impl Configuration for ServeConfig {
    const SHAPE: Shape = Shape {
        file: "serve.toml",
        of: "Configuration of tagstream's pages (tagstream serve)",
        head: "The pages' configuration (`tagstream serve --config`): every key with its default. \
            Variables that name keys of stage.toml or retrain.toml alone are left to them; one \
            that names no key of any is an error.",
        keys: ServeConfig::KEYS,
    };

    fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = self.access_flaws();
        let mut refuse = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                flaws.push(Flaw::new(key, reason));
            }
        };
        let host_and_port = self.serve.bind.contains(':');
        refuse(!host_and_port, "serve.bind", "must be `host:port`");
        for (zero, key) in [
            (self.serve.max_connections == 0, "serve.max_connections"),
            (self.serve.idle_timeout_ms < 1_000, "serve.idle_timeout_ms"),
            (self.stages.interval_ms < 100, "stages.interval_ms"),
            (
                self.stages.pictures_interval_ms < 100,
                "stages.pictures_interval_ms",
            ),
            (self.review.count == 0, "review.count"),
            (self.review.hold_s == 0, "review.hold_s"),
            (self.review.refresh_s == 0, "review.refresh_s"),
        ] {
            refuse(zero, key, "is too small");
        }
        let share = (0.0..=1.0).contains(&self.review.measure);
        refuse(!share, "review.measure", "must be a share between 0 and 1");
        let no_brokers = self.kafka.brokers.is_empty() || self.kafka.brokers.contains('@');
        refuse(
            no_brokers,
            "kafka.brokers",
            "must name `host:port`, without a user name (see `kafka.properties`)",
        );
        let inference = &self.inference;
        for (count, key) in [
            (inference.max_batch, "inference.max_batch"),
            (inference.most_waiting, "inference.most_waiting"),
        ] {
            refuse(count == 0, key, "must be at least 1");
        }
        refuse(
            inference.memory_mib <= self.fetch.max_mib,
            "inference.memory_mib",
            "must be larger than `fetch.max_mib`, or the largest picture could never be read",
        );
        match self.registry.url.as_str() {
            "" => flaws.push(Flaw::new(
                "registry.url",
                "is empty: name the registry (a folder or s3://...)",
            )),
            address => flaws.extend(address_flaw("registry.url", address)),
        }
        if !self.tables.url.is_empty() {
            flaws.extend(address_flaw("tables.url", &self.tables.url));
        }
        let rule = &self.label_studio.id;
        if !rule.is_empty() && IdRule::named(rule).is_none() {
            let reason = format!("is `{rule}`; the rules are path, uri, stem and sha256");
            flaws.push(Flaw::new("label_studio.id", reason));
        }
        for address in &self.stages.addresses {
            if stage_url(address).is_none() {
                let reason = format!(
                    "has `{}`, which is no `host:port` and no http address",
                    tagstream_core::redact::redact_place(address)
                );
                flaws.push(Flaw::new("stages.addresses", reason));
            }
        }
        flaws.extend(self.fetch.flaws());
        flaws.extend(self.decode.flaws());
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServeConfig {
        let mut config = ServeConfig::default();
        config.registry.url = "r".into();
        config
    }

    #[test]
    fn only_loopback_is_open_to_everybody() {
        config().validate().unwrap();
        for local in ["127.0.0.1:0", "localhost:1", "[::1]:9480", "127.3.2.1:80"] {
            let mut config = config();
            config.serve.bind = local.into();
            assert!(config.flaws().is_empty(), "{local}");
        }
        for open in ["0.0.0.0:80", "[::]:80", "10.0.0.1:9480", "tags:80", ":80"] {
            let mut config = config();
            config.serve.bind = open.into();
            let refused = config.validate().unwrap_err().to_string();
            assert!(refused.contains("serve.bind"), "{open}: {refused}");
            config.access.token_file = "tokens".into();
            config.validate().unwrap();
        }
    }

    #[test]
    fn a_header_is_believed_of_somebody_only() {
        let mut config = config();
        config.access.proxy_header = "X-Forwarded-User".into();
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.contains("access.proxy_networks"), "{refused}");
        config.access.proxy_networks = vec!["10.0.0.7".into(), "fd00::/8".into()];
        config.validate().unwrap();
        config.access.proxy_networks = vec!["10.0.0.7/33".into()];
        assert!(config.validate().is_err());
        config.access.proxy_networks = vec!["10.0.0.7".into()];
        config.access.proxy_header = "X-User: root".into();
        assert!(config.validate().is_err());
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (key, change) in [
            (
                "registry.url",
                (|c| c.registry.url.clear()) as fn(&mut ServeConfig),
            ),
            ("stages.addresses", |c| {
                c.stages.addresses = vec!["ftp://a".into()]
            }),
            ("review.measure", |c| c.review.measure = 1.5),
            ("kafka.brokers", |c| c.kafka.brokers = "me:pass@b:1".into()),
            ("access.local_name", |c| c.access.local_name = " ".into()),
            ("label_studio.id", |c| c.label_studio.id = "name".into()),
        ] {
            let mut config = config();
            change(&mut config);
            let refused = config.validate().unwrap_err().to_string();
            assert!(refused.contains(key), "{refused}");
            assert!(!refused.contains("pass"), "{refused}");
        }
    }
}
