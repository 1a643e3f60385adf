//! Which ways to speak to brokers this build has.

use rdkafka::ClientConfig;

/// A way to secure connections, the feature of librdkafka that it needs, and its name for people.
const WAYS: [(&str, &str); 6] = [
    ("ssl", "TLS, client certificates"),
    ("sasl_plain", "SASL PLAIN"),
    ("sasl_scram", "SCRAM-SHA-256, SCRAM-SHA-512"),
    (
        "sasl_oauthbearer",
        "OAUTHBEARER with OIDC (client credentials)",
    ),
    ("sasl_oauthbearer", "AWS_MSK_IAM (tokens of Amazon's IAM)"),
    ("sasl_gssapi", "GSSAPI (Kerberos)"),
];

/// What this build has and what it lacks, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityFeatures {
    /// What it has.
    pub has: Vec<&'static str>,
    /// What it lacks.
    pub lacks: Vec<&'static str>,
}

/// What this build has.
pub fn security_features() -> SecurityFeatures {
    let built = builtin();
    let has = |feature: &str| built.iter().any(|b| b == feature);
    let (has, lacks): (Vec<_>, Vec<_>) = WAYS.iter().partition(|(feature, _)| has(feature));
    let names =
        |ways: Vec<&'static (&'static str, &'static str)>| ways.into_iter().map(|(_, name)| *name);
    SecurityFeatures {
        has: names(has).collect(),
        lacks: names(lacks).collect(),
    }
}

/// The features that librdkafka was built with.
fn builtin() -> Vec<String> {
    let config = ClientConfig::new().create_native_config();
    let features = config.and_then(|config| config.get("builtin.features"));
    let features = features.unwrap_or_default();
    features
        .split(',')
        .map(|feature| feature.trim().to_owned())
        .collect()
}

/// Why there is no login by `mechanism` in this build; `None` if there is, or the name is none that
/// is known here.
pub(super) fn missing_login(mechanism: &str) -> Option<String> {
    let (feature, name) = match mechanism.to_ascii_uppercase().as_str() {
        "GSSAPI" => ("sasl_gssapi", "GSSAPI (Kerberos)"),
        "PLAIN" => ("sasl_plain", "PLAIN"),
        "SCRAM-SHA-256" | "SCRAM-SHA-512" => ("sasl_scram", "SCRAM"),
        "OAUTHBEARER" => ("sasl_oauthbearer", "OAUTHBEARER"),
        "AWS_MSK_IAM" => ("sasl_oauthbearer", "AWS_MSK_IAM (tokens of Amazon's IAM)"),
        _ => return None,
    };
    if builtin().iter().any(|built| built == feature) {
        return None;
    }
    let has = security_features().has.join(", ");
    Some(format!("this build has no login by {name}, it has {has}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_and_what_is_not_is_named() {
        let features = security_features();
        assert_eq!(features.has.len() + features.lacks.len(), WAYS.len());
        for mechanism in ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"] {
            assert_eq!(missing_login(mechanism), None);
        }
        let said = missing_login("GSSAPI").unwrap();
        assert!(
            said.contains("Kerberos") && said.contains("SCRAM-SHA-512"),
            "{said}"
        );
    }
}
