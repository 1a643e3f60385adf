//! Credentials of AWS for what is no store: found where those of a bucket are, in the environment,
//! in a profile of the AWS tools, or told by the cloud that this machine runs in.

use super::{Client, StoreOpenError, environment, superseded_s3};
use crate::address::Store;
use crate::config::Secret;
use crate::storage::http::Connector;
use crate::storage::purpose::Purpose;
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

/// Keys that requests to AWS are signed with.
#[derive(Debug, Clone)]
pub struct AwsKeys {
    /// The key's name.
    pub id: String,
    /// The key.
    pub secret: Secret,
    /// What goes with it, if it is only lent.
    pub session: Option<Secret>,
}

/// Why there are no keys. No text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum AwsKeysError {
    /// A variable or a profile is wrong.
    #[error(transparent)]
    Environment(#[from] StoreOpenError),
    /// Nobody has any.
    #[error(
        "no credentials of AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of \
         the AWS tools (AWS_PROFILE), or give this machine or its container a role"
    )]
    None,
}

/// The settings that the environment and its profile make.
fn settings() -> Result<Vec<(AmazonS3ConfigKey, String)>, StoreOpenError> {
    let refused = |reason: String| StoreOpenError::Client {
        url: "AWS".into(),
        variables: Store::S3.variables(),
        reason,
    };
    let url = Url::parse("s3://none").map_err(|error| refused(error.to_string()))?;
    let variables: Vec<_> = std::env::vars_os().collect();
    let mut client = Client {
        url: &url,
        environment: environment(Store::S3, variables.iter().cloned()),
        configured: Vec::new(),
        purpose: Purpose::Credentials,
    };
    client
        .take_profile(&variables)
        .map_err(StoreOpenError::Option)?;
    client.check_environment(Store::S3)?;
    let settings = client.settings(superseded_s3);
    settings.map_err(|error| refused(error.to_string()))
}

/// The region that the environment, or its profile, is in.
///
/// # Errors
/// [`StoreOpenError`] for a variable or a profile that is wrong.
pub fn aws_region() -> Result<Option<String>, StoreOpenError> {
    use AmazonS3ConfigKey as Key;
    let settings = settings()?;
    let of = |wanted: Key| settings.iter().rev().find(|(key, _)| *key == wanted);
    let found = of(Key::Region).or_else(|| of(Key::DefaultRegion));
    Ok(found.map(|(_, region)| region.clone()))
}

/// The keys that the environment has now.
///
/// # Errors
/// [`AwsKeysError`] if it has none.
pub async fn aws_keys() -> Result<AwsKeys, AwsKeysError> {
    let client = Client {
        url: &Url::parse("s3://none").map_err(|_| AwsKeysError::None)?,
        environment: Vec::new(),
        configured: Vec::new(),
        purpose: Purpose::Credentials,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name("none")
        .with_retry(client.retry())
        .with_client_options(ClientOptions::new())
        .with_http_connector(Connector {
            store: Store::S3,
            purpose: Purpose::Credentials,
        });
    for (key, value) in settings()? {
        builder = builder.with_config(key, value);
    }
    let told = async {
        let store = builder.build().ok()?;
        store.credentials().get_credential().await.ok()
    };
    let keys = told.await.ok_or(AwsKeysError::None)?;
    Ok(AwsKeys {
        id: keys.key_id.clone(),
        secret: keys.secret_key.clone().into(),
        session: keys.token.clone().map(Secret::from),
    })
}
