//! The ways to a token for SASL OAUTHBEARER.

use super::msk::MskTokens;
use super::properties::Refusal;
use super::tokens::{TokenError, TokenSource};
use rdkafka::client::OAuthToken;
use std::collections::BTreeMap;

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) enum Tokens {
    /// A server gives them.
    Oidc(TokenSource),
    /// They are made here, with keys of AWS.
    Msk(MskTokens),
}

impl Tokens {
    /// What the user's properties name; `None` if they name none.
    ///
    /// # Errors
    /// [`Refusal`] for what is missing or cannot be; `shown` is a property as the user knows it.
    pub(super) fn of(
        properties: &BTreeMap<&str, &str>,
        brokers: &str,
        shown: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, Refusal> {
        if let Some(msk) = MskTokens::of(properties, brokers, &shown)? {
            return Ok(Some(Tokens::Msk(msk)));
        }
        Ok(TokenSource::of(properties, shown)?.map(Tokens::Oidc))
    }

    /// A token. Blocks.
    pub(super) fn fetch(&self) -> Result<OAuthToken, TokenError> {
        match self {
            Tokens::Oidc(source) => source.fetch(),
            Tokens::Msk(source) => source.fetch(),
        }
    }

    /// What gives them, as it may be printed.
    pub(super) fn endpoint(&self) -> String {
        match self {
            Tokens::Oidc(source) => source.endpoint(),
            Tokens::Msk(source) => source.endpoint(),
        }
    }
}
