//! The one way to an HTTP client: TLS by rustls, its cryptography by ring.
//!
//! reqwest and object_store take the process's provider of cryptography and come without one here:
//! the one that they would bring (aws-lc) is half a minute of every clean build.

use std::sync::{Once, OnceLock};

/// Makes ring the process's provider of cryptography, once; what came first stays.
pub fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only if there is a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The beginning of every HTTP client. On a machine without certificates of authorities it trusts
/// nobody: what is asked without TLS is asked all the same.
pub fn http_client() -> reqwest::ClientBuilder {
    match no_authorities() {
        None => builder(),
        Some(_) => builder().tls_certs_only([]),
    }
}

/// Why this machine can check nobody's certificate, if that is so: it has no certificates of
/// authorities. Who is going to ask over TLS should say so before.
pub fn no_authorities() -> Option<&'static str> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    let why = WHY.get_or_init(|| {
        let error = builder().build().err()?;
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Some(cause.to_string())
    });
    why.as_deref()
}

fn builder() -> reqwest::ClientBuilder {
    use_ring();
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the way that the others take"
    )]
    reqwest::Client::builder()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_made_without_more() {
        http_client().build().unwrap();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
