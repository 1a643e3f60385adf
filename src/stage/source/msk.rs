//! Tokens for SASL OAUTHBEARER of Amazon MSK's access control by IAM (`AWS_MSK_IAM`).
//!
//! A token is a request to `kafka-cluster:Connect` that is signed (Signature Version 4, in the
//! query) and never sent: its address in Base64. Nobody but the brokers is asked.

use super::properties::Refusal;
use super::token_keys::{AWS_MSK_IAM as MECHANISM, METHOD, REGION};
use super::tokens::{TokenError, blocking};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::client::OAuthToken;
use ring::hmac;
use std::collections::BTreeMap;
use tagstream_core::config::Secret;
use tagstream_core::digest::{hex, sha256};
use tagstream_core::storage::open::{aws_keys, aws_region};

const SERVICE: &str = "kafka-cluster";
/// How long a token lasts, which is as long as the brokers let it.
const LASTS_S: i64 = 900;
/// What a signature's query leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where such tokens come from: the keys that the environment has at the time.
#[derive(Debug, Clone)]
pub(super) struct MskTokens {
    region: String,
}

/// What a token is signed with.
struct Signing<'a> {
    key: &'a str,
    secret: &'a Secret,
    session: Option<&'a Secret>,
    region: &'a str,
    at: DateTime<Utc>,
}

impl MskTokens {
    /// The source, if the user's properties ask for this mechanism.
    ///
    /// # Errors
    /// [`Refusal`] for what is missing or cannot be; `shown` is a property as the user knows it.
    pub(super) fn of(
        properties: &BTreeMap<&str, &str>,
        brokers: &str,
        shown: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, Refusal> {
        let wrong = |key: &str, reason: String| Refusal::Unsupported {
            property: shown(key),
            reason,
        };
        let given = properties.get(REGION).copied();
        let Some(key) = asked_by(|key| properties.get(key).copied()) else {
            return match given {
                Some(_) => Err(wrong(REGION, format!("it needs `{}`", needed()))),
                None => Ok(None),
            };
        };
        if properties.contains_key(METHOD) {
            let reason = format!("it is of OAUTHBEARER; {MECHANISM} makes its tokens itself");
            return Err(wrong(METHOD, reason));
        }
        let protocol = properties.get("security.protocol").copied();
        if !protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("sasl_ssl")) {
            let reason = format!(
                "{MECHANISM} needs `security.protocol` = \"sasl_ssl\": whoever reads a token can \
                 log in with it"
            );
            return Err(wrong(key, reason));
        }
        let named = region_of(brokers);
        if given.is_some_and(|given| !is_region(given)) {
            return Err(Refusal::Value {
                property: shown(REGION),
                range: "the name of a region of AWS, such as eu-west-1",
            });
        }
        if let (Some(given), Some(named)) = (given, named)
            && given != named
        {
            let reason = format!("the brokers' names say that they are in `{named}`; remove it");
            return Err(wrong(REGION, reason));
        }
        let region = match given.or(named) {
            Some(region) => region.to_owned(),
            None => of_environment().map_err(|reason| wrong(key, reason))?,
        };
        Ok(Some(MskTokens { region }))
    }

    /// What a token comes from, for people.
    pub(super) fn endpoint(&self) -> String {
        format!("AWS credentials for {}", self.region)
    }

    /// Makes a token. Blocks as long as it takes to find the credentials.
    pub(super) fn fetch(&self) -> Result<OAuthToken, TokenError> {
        let keys = blocking(|| async { aws_keys().await.map_err(|error| error.to_string()) });
        let keys = keys.map_err(|reason| TokenError {
            endpoint: self.endpoint(),
            reason,
        })?;
        let signing = Signing {
            key: &keys.id,
            secret: &keys.secret,
            session: keys.session.as_ref(),
            region: &self.region,
            at: Utc::now(),
        };
        Ok(OAuthToken {
            token: signing.token(concat!("tagstream/", env!("CARGO_PKG_VERSION"))),
            // The brokers take the name from the keys.
            principal_name: "tagstream".into(),
            lifetime_ms: 1_000 * (signing.at.timestamp() + LASTS_S),
        })
    }
}

/// The property by which this mechanism is asked for, if it is.
pub(super) fn asked_by<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<&'static str> {
    ["sasl.mechanism", "sasl.mechanisms"]
        .into_iter()
        .find(|key| value(key).is_some_and(|asked| asked.eq_ignore_ascii_case(MECHANISM)))
}

fn needed() -> String {
    format!("sasl.mechanism` = \"{MECHANISM}\" beside it, in `kafka.properties")
}

fn of_environment() -> Result<String, String> {
    let region = aws_region().map_err(|error| error.to_string())?;
    region.filter(|region| is_region(region)).ok_or_else(|| {
        format!(
            "{MECHANISM} needs the brokers' region, and neither their names say it nor \
             `{REGION}`, AWS_REGION or a profile of the AWS tools"
        )
    })
}

fn is_region(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.contains('-') && name.len() < 40 && name.chars().all(plain)
}

/// The region that MSK's own names of brokers hold: `b-1.name.id.c2.kafka.REGION.amazonaws.com`.
fn region_of(brokers: &str) -> Option<&str> {
    brokers.split(',').find_map(|broker| {
        let host = broker.trim().split(':').next()?;
        let host = host
            .strip_suffix(".amazonaws.com")
            .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
        let (before, region) = host.rsplit_once('.')?;
        let service = before.rsplit('.').next()?;
        (matches!(service, "kafka" | "kafka-serverless") && is_region(region)).then_some(region)
    })
}

impl Signing<'_> {
    fn token(&self, agent: &str) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let (day, time) = (
            self.at.format("%Y%m%d").to_string(),
            self.at.format("%Y%m%dT%H%M%SZ").to_string(),
        );
        let scope = format!("{day}/{}/{SERVICE}/aws4_request", self.region);
        let host = format!("kafka.{}.amazonaws.com", self.region);
        let mut query = vec![
            ("Action", format!("{SERVICE}:Connect")),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", self.key)),
            ("X-Amz-Date", time.clone()),
            ("X-Amz-Expires", LASTS_S.to_string()),
        ];
        // The order is the canonical one.
        let session = self.session.map(|session| session.expose().to_owned());
        query.extend(session.map(|session| ("X-Amz-Security-Token", session)));
        query.push(("X-Amz-SignedHeaders", "host".to_owned()));
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let query = query.join("&");
        let nothing = sha256(b"");
        let request = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{nothing}");
        let request = sha256(request);
        let signed = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
        let signature = self.signature(&day, &signed);
        let agent = encoded(agent);
        let address =
            format!("https://{host}/?{query}&X-Amz-Signature={signature}&User-Agent={agent}");
        URL_SAFE_NO_PAD.encode(address)
    }

    fn signature(&self, day: &str, text: &str) -> String {
        let start = format!("AWS4{}", self.secret.expose()).into_bytes();
        let parts = [day, self.region, SERVICE, "aws4_request", text];
        let last = parts.iter().fold(start, |key, part| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            hmac::sign(&key, part.as_bytes()).as_ref().to_vec()
        });
        hex(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses that aws-msk-iam-sasl-signer-python 1.0.2 (botocore 1.44.8) makes of the same
    /// keys at the same time. It writes the session's token behind the signed headers; the
    /// signature is over the sorted query.
    #[test]
    fn a_token_is_the_one_that_amazons_own_signer_makes() {
        let at = "2026-01-31T12:00:00Z".parse().unwrap();
        let plain = Secret::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
        let token = Signing {
            key: "AKIDEXAMPLE",
            secret: &plain,
            session: None,
            region: "eu-west-1",
            at,
        }
        .token("aws-msk-iam-sasl-signer-python/1.0.2");
        let golden = include_str!("../../../tests/fixtures/msk/eu-west-1.token");
        assert_eq!(token, golden.trim_end());

        let secret = Secret::from("secret/+=~key".to_owned());
        let session = Secret::from("IQoJb3JpZ2luX2VjE/+a b=~*'()".to_owned());
        let token = Signing {
            key: "ASIAEXAMPLE",
            secret: &secret,
            session: Some(&session),
            region: "us-gov-east-1",
            at,
        }
        .token("aws-msk-iam-sasl-signer-python/1.0.2");
        let parts = |token: &str| {
            let address = URL_SAFE_NO_PAD.decode(token).unwrap();
            let address = String::from_utf8(address).unwrap();
            let (host, query) = address.split_once('?').unwrap();
            let mut parts: Vec<_> = query.split('&').map(str::to_owned).collect();
            parts.sort();
            (host.to_owned(), parts)
        };
        let golden = include_str!("../../../tests/fixtures/msk/us-gov-east-1.token");
        assert_eq!(parts(&token), parts(golden.trim_end()));
    }

    #[test]
    fn the_region_is_that_of_the_brokers_names() {
        for (brokers, region) in [
            (
                "b-1.x.ab12.c2.kafka.eu-west-1.amazonaws.com:9098",
                Some("eu-west-1"),
            ),
            (
                "boot-ab.c1.kafka-serverless.us-east-1.amazonaws.com:9098",
                Some("us-east-1"),
            ),
            (
                "own:1, b-1.x.a.c2.kafka.cn-north-1.amazonaws.com.cn:9098",
                Some("cn-north-1"),
            ),
            ("localhost:9092", None),
            ("s3.eu-west-1.amazonaws.com:1", None),
            ("kafka.eu-west-1.amazonaws.com.example.org:1", None),
        ] {
            assert_eq!(region_of(brokers), region, "{brokers}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_and_no_value_is_repeated() {
        let brokers = "b-1.x.ab12.c2.kafka.eu-west-1.amazonaws.com:9098";
        let of = |properties: &[(&'static str, &'static str)]| {
            MskTokens::of(
                &properties.iter().copied().collect(),
                brokers,
                str::to_owned,
            )
        };
        let asked = ("sasl.mechanism", "AWS_MSK_IAM");
        let secure = ("security.protocol", "SASL_SSL");
        let tokens = of(&[asked, secure]).unwrap().unwrap();
        assert_eq!(tokens.region, "eu-west-1");
        assert!(
            of(&[secure, ("sasl.mechanism", "PLAIN")])
                .unwrap()
                .is_none()
        );
        for (properties, named) in [
            (&[asked][..], "sasl_ssl"),
            (
                &[asked, ("security.protocol", "sasl_plaintext")],
                "sasl_ssl",
            ),
            (&[asked, secure, (REGION, "us-hunter2-1")], "`eu-west-1`"),
            (&[asked, secure, (REGION, "hunter2")], "such as eu-west-1"),
            (&[asked, secure, (METHOD, "oidc")], METHOD),
            (&[(REGION, "us-hunter2-1")], "AWS_MSK_IAM"),
        ] {
            let said = of(properties).unwrap_err().to_string();
            assert!(said.contains(named) && !said.contains("hunter2"), "{said}");
        }
    }
}
