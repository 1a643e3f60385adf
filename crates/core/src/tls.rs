//! The one way to an HTTP client: TLS by rustls, its cryptography by ring.
//!
//! reqwest and object_store take the process's provider of cryptography and come without one here:
//! the one that they would bring (aws-lc) is half a minute of every clean build.

use std::sync::Once;

/// Makes ring the process's provider of cryptography, once; what came first stays.
pub fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only if there is a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The beginning of every HTTP client.
pub fn http_client() -> reqwest::ClientBuilder {
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
