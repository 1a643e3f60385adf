//! The names of object stores' options.

use super::Store;
use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use std::str::FromStr;

/// The names that the options of one kind of store can have.
#[derive(Debug)]
pub struct OptionNames {
    /// The store, for people.
    pub store: &'static str,
    /// What its options' long names begin with (`aws_region` for `region`).
    pub prefix: &'static str,
    /// The short names, for suggestions and schemas: what `knows` takes and a user may want.
    pub names: &'static [&'static str],
    parse: fn(&str) -> bool,
}

impl OptionNames {
    /// Whether the store has an option of this name, long or short.
    pub fn knows(&self, name: &str) -> bool {
        (self.parse)(name)
    }
}

impl Store {
    /// The names of its options.
    pub fn options(self) -> &'static OptionNames {
        match self {
            Store::S3 => &S3,
            Store::Gs => &GS,
            Store::Az => &AZ,
        }
    }
}

fn parses<K: FromStr>(name: &str) -> bool {
    K::from_str(name).is_ok() || ClientConfigKey::from_str(name).is_ok()
}

/// Joins a store's own names and those of its HTTP client.
macro_rules! names {
    ($($own:literal,)*) => {
        &[
            $($own,)*
            "allow_http",
            "allow_invalid_certificates",
            "connect_timeout",
            "default_content_type",
            "disable_system_certificates",
            "http1_only",
            "http2_keep_alive_interval",
            "http2_keep_alive_timeout",
            "http2_keep_alive_while_idle",
            "http2_max_frame_size",
            "http2_only",
            "pool_idle_timeout",
            "pool_max_idle_per_host",
            "proxy_ca_certificate",
            "proxy_excludes",
            "proxy_url",
            "randomize_addresses",
            "read_timeout",
            "timeout",
            "user_agent",
        ]
    };
}

/// Options for `s3://`.
pub static S3: OptionNames = OptionNames {
    store: "S3",
    prefix: "aws_",
    parse: parses::<AmazonS3ConfigKey>,
    names: names! {
        "access_key_id",
        "secret_access_key",
        "session_token",
        "region",
        "default_region",
        "endpoint",
        "bucket",
        "checksum_algorithm",
        "conditional_put",
        "container_authorization_token_file",
        "container_credentials_full_uri",
        "container_credentials_relative_uri",
        "copy_if_not_exists",
        "disable_bulk_delete",
        "disable_tagging",
        "endpoint_url_sts",
        "imdsv1_fallback",
        "metadata_endpoint",
        "request_payer",
        "role_arn",
        "role_session_name",
        "s3_express",
        "server_side_encryption",
        "skip_signature",
        "sse_bucket_key_enabled",
        "sse_customer_key_base64",
        "sse_kms_key_id",
        "unsigned_payload",
        "virtual_hosted_style_request",
        "web_identity_token_file",
    },
};

/// Options for `gs://`.
pub static GS: OptionNames = OptionNames {
    store: "Google Cloud Storage",
    prefix: "google_",
    parse: parses::<GoogleConfigKey>,
    names: names! {
        "application_credentials",
        "base_url",
        "bearer_token",
        "bucket",
        "service_account",
        "service_account_key",
        "service_account_path",
        "skip_signature",
    },
};

/// Options for `az://`.
pub static AZ: OptionNames = OptionNames {
    store: "Azure Blob Storage",
    prefix: "azure_",
    parse: parses::<AzureConfigKey>,
    names: names! {
        "account_name",
        "account_key",
        "access_key",
        "authority_host",
        "bearer_token",
        "client_id",
        "client_secret",
        "container_name",
        "credential_type",
        "disable_tagging",
        "encryption_key",
        "endpoint",
        "fabric_cluster_identifier",
        "fabric_session_token",
        "fabric_token_service_url",
        "fabric_workload_host",
        "federated_token_file",
        "msi_endpoint",
        "msi_resource_id",
        "object_id",
        "sas_token",
        "skip_signature",
        "tenant_id",
        "use_azure_cli",
        "use_emulator",
        "use_fabric_endpoint",
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_that_the_store_takes() {
        for options in [&S3, &GS, &AZ] {
            for name in options.names {
                assert!(options.knows(name), "{}: {name}", options.store);
            }
            assert!(options.knows(&format!("{}allow_http", options.prefix)));
        }
        assert!(S3.knows("aws_access_key_id"));
        assert!(AZ.knows("azure_storage_account_name"));
    }

    #[test]
    fn mistyped_names_and_those_of_other_stores_are_unknown() {
        for (options, name) in [
            (&S3, "acces_key_id"),
            (&S3, "regon"),
            (&S3, "account_name"),
            (&GS, "access_key_id"),
            (&AZ, "secret_access_key"),
        ] {
            assert!(!options.knows(name), "{}: {name}", options.store);
        }
    }
}
