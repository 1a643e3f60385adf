//! The one check of object stores' options, for whoever takes them.

use crate::address::Store;
use crate::config::{Flaw, ObjectStoreConfig, Secret, refuse_unknown_option};
use crate::redact::endpoint_with_user;
use std::collections::BTreeMap;

impl Store {
    /// What is configured for it.
    pub fn configured(self, options: &ObjectStoreConfig) -> &BTreeMap<String, Secret> {
        match self {
            Store::S3 => &options.s3,
            Store::Gs => &options.gs,
            Store::Az => &options.az,
        }
    }
}

/// Refuses options that the stores do not have, and endpoints with credentials.
///
/// # Errors
/// The first that cannot be, by the key that a configuration has for it.
pub fn check(options: &ObjectStoreConfig) -> Result<(), Flaw> {
    for store in [Store::S3, Store::Gs, Store::Az] {
        let section = format!("object_store.{}", store.scheme());
        let configured = store.configured(options);
        for name in configured.keys() {
            let key = format!("{section}.{name}");
            let spell = |near: &str| format!("{section}.{near}");
            refuse_unknown_option(store.options(), name, spell)
                .map_err(|reason| Flaw { key, reason })?;
        }
        let pairs = configured.iter().map(|(k, v)| (k.as_str(), v.expose()));
        if let Some(name) = endpoint_with_user(pairs) {
            let reason = "has a user name or password, which stores do not take; set their keys";
            return Err(Flaw::new(format!("{section}.{name}"), reason));
        }
    }
    Ok(())
}
