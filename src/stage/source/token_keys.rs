//! The properties that say where tokens come from: they never reach librdkafka.

pub(super) const METHOD: &str = "sasl.oauthbearer.method";
pub(super) const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
pub(super) const CLIENT: [&str; 2] = [
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.id",
];
pub(super) const SECRET: [&str; 2] = [
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
];
pub(super) const SCOPE: &str = "sasl.oauthbearer.scope";
pub(super) const CA: &str = "https.ca.location";

/// Amazon's mechanism as Java's clients know it; on the wire it is OAUTHBEARER.
pub(super) const AWS_MSK_IAM: &str = "AWS_MSK_IAM";
/// The region whose brokers tokens of AWS are for.
pub(super) const REGION: &str = "sasl.aws.region";

/// The properties of OIDC: they are taken here, and never reach librdkafka.
pub(super) const TAKEN: [&str; 8] = [
    METHOD, ENDPOINT, CLIENT[0], CLIENT[1], SECRET[0], SECRET[1], SCOPE, CA,
];

/// Whether a property is one of them.
pub(super) fn is_taken(key: &str) -> bool {
    TAKEN.contains(&key) || key == REGION
}
