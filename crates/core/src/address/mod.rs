//! The one grammar of addresses: where tables, registries and models are kept.
//!
//! | written | meant |
//! |---|---|
//! | a path, `file:///folder` | a folder of this machine |
//! | `s3://`, `s3a://`, `s3n://` | Amazon S3 and what speaks like it |
//! | `gs://`, `gcs://` | Google Cloud Storage |
//! | `az://`, `azure://`, `abfs://`, `abfss://`, `wasb://`, `wasbs://`, `adl://` | Azure's blobs |
//!
//! Behind the scheme stands the bucket (or container, or `container@account.host`), then the
//! prefix.

pub mod options;

use std::path::PathBuf;
use url::Url;

/// What all messages say that there is.
const KNOWN: &str = "known are a path, file:///folder, s3://bucket/prefix, gs://bucket/prefix and \
                     az://container/prefix";

/// An object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Amazon S3 and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Store {
    /// The store of a scheme.
    pub fn of_scheme(scheme: &str) -> Option<Store> {
        match scheme {
            "s3" | "s3a" | "s3n" => Some(Store::S3),
            "gs" | "gcs" => Some(Store::Gs),
            "az" | "azure" | "abfs" | "abfss" | "wasb" | "wasbs" | "adl" => Some(Store::Az),
            _ => None,
        }
    }

    /// The scheme that stands for all of the store's.
    pub fn scheme(self) -> &'static str {
        match self {
            Store::S3 => "s3",
            Store::Gs => "gs",
            Store::Az => "az",
        }
    }
}

/// Where something is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A prefix in a bucket.
    Bucket {
        /// The store.
        store: Store,
        /// The address with the store's own scheme, whichever was written.
        url: Url,
    },
}

/// Why an address is none. What was written is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was written.
    #[error("is empty; {KNOWN}")]
    Empty,
    /// A scheme that we do not know.
    #[error("has the scheme `{0}://`, which names no folder and no object store; {KNOWN}")]
    UnknownScheme(String),
    /// A scheme without `//`.
    #[error("begins with `{0}:`, which is a scheme only with two slashes: `{0}://`")]
    NoSlashes(String),
    /// No bucket.
    #[error("names no bucket: write `{0}://bucket/prefix`")]
    NoBucket(String),
    /// A password.
    #[error("holds a password; credentials belong into [object_store] or the environment")]
    Password,
    /// A port.
    #[error("has a port, which no bucket has; credentials belong into [object_store]")]
    Port,
    /// A file address that is no folder of this machine.
    #[error("names no folder of this machine: write file:///folder")]
    NotAFolder,
    /// Something that an address cannot have.
    #[error("is no address: {0}")]
    Malformed(String),
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`AddressError`] says why it is none; its text goes on where the name of what was written
    /// ends.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.split_once(':') {
                Some((scheme, _)) if scheme == "file" || Store::of_scheme(scheme).is_some() => {
                    Err(AddressError::NoSlashes(scheme.into()))
                }
                _ => Ok(Address::Folder(PathBuf::from(text))),
            };
        };
        let scheme = scheme.to_ascii_lowercase();
        let malformed = |error: url::ParseError| AddressError::Malformed(error.to_string());
        if scheme == "file" {
            let url = Url::parse(text).map_err(malformed)?;
            let folder = url.to_file_path().map_err(|()| AddressError::NotAFolder)?;
            return Ok(Address::Folder(folder));
        }
        let Some(store) = Store::of_scheme(&scheme) else {
            return Err(AddressError::UnknownScheme(scheme));
        };
        let own = store.scheme();
        let url = Url::parse(&format!("{own}://{rest}")).map_err(malformed)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(AddressError::NoBucket(own.into()));
        }
        // Azure's long form is container@account.host; elsewhere an @ can only stand behind a key.
        if url.password().is_some() || (store != Store::Az && !url.username().is_empty()) {
            return Err(AddressError::Password);
        }
        // What looks like a port may be the beginning of a key.
        if url.port().is_some() {
            return Err(AddressError::Port);
        }
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "a prefix has no `?` and no `#`".into();
            return Err(AddressError::Malformed(reason));
        }
        Ok(Address::Bucket { store, url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::STORE_SCHEMES;

    #[test]
    fn every_usual_name_of_a_store_means_it() {
        for (text, canonical) in [
            ("s3://b/p", "s3://b/p"),
            ("s3a://b/p/q", "s3://b/p/q"),
            ("S3N://b", "s3://b"),
            ("gs://b/p", "gs://b/p"),
            ("gcs://b/p", "gs://b/p"),
            ("az://c/p", "az://c/p"),
            ("azure://c/p", "az://c/p"),
            ("abfs://c/p", "az://c/p"),
            (
                "abfss://c@account.dfs.core.windows.net/p",
                "az://c@account.dfs.core.windows.net/p",
            ),
            (
                "wasbs://c@account.blob.core.windows.net/p",
                "az://c@account.blob.core.windows.net/p",
            ),
        ] {
            let scheme = text.split_once(':').unwrap().0.to_ascii_lowercase();
            assert!(STORE_SCHEMES.contains(&&*scheme), "{text}");
            match Address::parse(text) {
                Ok(Address::Bucket { url, store }) => {
                    assert_eq!(url.as_str(), canonical, "{text}");
                    assert_eq!(url.scheme(), store.scheme(), "{text}");
                    // What the client library makes of it is a store, too.
                    object_store::ObjectStoreScheme::parse(&url).unwrap();
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_a_store_s_scheme_is_one_to_whoever_redacts() {
        for scheme in STORE_SCHEMES {
            assert!(Store::of_scheme(scheme).is_some(), "{scheme}");
        }
        for other in ["file", "http", "https", "data", "ftp", ""] {
            assert!(!STORE_SCHEMES.contains(&other));
            assert_eq!(Store::of_scheme(other), None, "{other}");
        }
    }

    #[test]
    fn paths_and_file_addresses_are_folders() {
        for (text, folder) in [
            ("tables", "tables"),
            ("./a:b/c", "./a:b/c"),
            ("/srv/tables", "/srv/tables"),
            ("file:///srv/my%20tables", "/srv/my tables"),
        ] {
            assert_eq!(Address::parse(text), Ok(Address::Folder(folder.into())));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_repeated() {
        for (text, error) in [
            ("", AddressError::Empty),
            ("ftp://host/x", AddressError::UnknownScheme("ftp".into())),
            (
                "https://host/x",
                AddressError::UnknownScheme("https".into()),
            ),
            ("s3:/bucket/p", AddressError::NoSlashes("s3".into())),
            ("s3:///p", AddressError::NoBucket("s3".into())),
            ("gcs://", AddressError::NoBucket("gs".into())),
            ("s3://key:hunter2@bucket/p", AddressError::Password),
            ("s3://key@bucket/p", AddressError::Password),
            (
                "az://c:hunter2@a.blob.core.windows.net/p",
                AddressError::Password,
            ),
            ("gs://AKIA:1/hunter2@bucket/p", AddressError::Port),
            ("file://host/folder", AddressError::NotAFolder),
        ] {
            let found = Address::parse(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("hunter2"), "{found}");
        }
        assert!(matches!(
            Address::parse("s3://b/p?versionId=hunter2"),
            Err(AddressError::Malformed(_))
        ));
    }
}
