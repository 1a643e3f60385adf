//! What lies between a store's client and the network: every request is counted, and three answers
//! are made clearer than they come.

use super::purpose::Purpose;
use crate::address::Store;
use crate::tls::{no_authorities, use_ring};
use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};

/// Where clouds tell the machines that run in them who they are.
const METADATA_HOSTS: [&str; 4] = [
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "metadata",
];
/// S3 says this (with 409) of a conditional put that met another write or a deletion; the object
/// may be there or not, and the request is to be sent again.
const CONFLICTS: [&str; 2] = ["ConditionalRequestConflict", "OperationAborted"];

/// Makes the HTTP clients of a store.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) store: Store,
    pub(super) purpose: Purpose,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        use_ring();
        // What is asked without TLS needs nobody's certificate, but no client could be made.
        let without = no_authorities().map(|_| options.clone().with_no_system_certificates(true));
        let checks = options.get_config_value(&ClientConfigKey::AllowInvalidCertificates);
        let checks = checks.is_none_or(|allowed| allowed != "true");
        let inner = ReqwestConnector::default().connect(without.as_ref().unwrap_or(options))?;
        Ok(HttpClient::new(Observed {
            inner,
            untrusting: no_authorities().filter(|_| checks),
            store: self.store,
            purpose: self.purpose,
        }))
    }
}

/// A client whose requests are counted.
#[derive(Debug)]
struct Observed {
    inner: HttpClient,
    /// Why nobody's certificate can be checked, if that is so.
    untrusting: Option<&'static str>,
    store: Store,
    purpose: Purpose,
}

#[async_trait]
impl HttpService for Observed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let (Some(why), Some("https")) = (self.untrusting, request.uri().scheme_str()) {
            return Err(HttpError::new(HttpErrorKind::Unknown, NoAuthorities(why)));
        }
        let host = request.uri().host().unwrap_or_default();
        let asks_who_we_are = METADATA_HOSTS.contains(&host);
        let is_conditional = request.headers().contains_key("if-none-match")
            || request.headers().contains_key("if-match");
        let mut answer = self.inner.execute(request).await;
        if is_conditional && self.store == Store::S3 {
            answer = conflicts_as_failures(answer).await;
        }
        let result = match &answer {
            Ok(response) if !is_repeated(response.status().as_u16()) => "answered",
            _ => "failed",
        };
        metrics::counter!(
            "tagstream_store_requests_total",
            "store" => self.purpose.name(),
            "result" => result
        )
        .increment(1);
        match answer {
            Err(error) if asks_who_we_are => Err(without_credentials(self.store, &error)),
            Ok(response) if asks_who_we_are && response.status().is_client_error() => {
                refused_credentials(self.store, response).await
            }
            answer => answer,
        }
    }
}

/// Whether clients send a request again that was answered so.
fn is_repeated(status: u16) -> bool {
    matches!(status, 408 | 429) || status >= 500
}

/// A conflict is no answer to whether the object exists, although clients take 409 for one. As a
/// failure of the server it is what they send the request again for.
async fn conflicts_as_failures(
    answer: Result<HttpResponse, HttpError>,
) -> Result<HttpResponse, HttpError> {
    let response = answer?;
    if response.status().as_u16() != 409 {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let body = body.bytes().await?;
    let text = String::from_utf8_lossy(&body);
    if CONFLICTS.iter().any(|conflict| text.contains(conflict))
        && let Ok(unavailable) = 503u16.try_into()
    {
        parts.status = unavailable;
    }
    Ok(HttpResponse::from_parts(parts, body.into()))
}

/// Nobody answers where a cloud would tell who we are: say what is missing, at once. In a cloud the
/// address answers the first time, as the clouds' own tools expect of it.
fn without_credentials(store: Store, error: &HttpError) -> HttpError {
    let reason = error.to_string();
    HttpError::new(HttpErrorKind::Unknown, NoCredentials { store, reason })
}

/// The same where somebody else answers, such as a proxy, or a cloud that has given this machine no
/// role. The status stays: clients ask in another way after some.
async fn refused_credentials(
    store: Store,
    response: HttpResponse,
) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let reason = String::from_utf8_lossy(&body.bytes().await?).into_owned();
    let told = NoCredentials { store, reason }.to_string();
    Ok(HttpResponse::from_parts(parts, told.into()))
}

#[derive(Debug, thiserror::Error)]
#[error(
    "this machine can check nobody's certificate: {0}. Install the package ca-certificates, or \
     name a file of certificates in the variable SSL_CERT_FILE"
)]
struct NoAuthorities(&'static str);

#[derive(Debug, thiserror::Error)]
#[error(
    "no credentials for {} are in `[object_store.{}]` nor in the {}* variables{}, and this machine \
     is told none by a cloud ({reason})",
    .store.options().store, .store.scheme(), .store.variables(),
    if *.store == Store::S3 { " nor in a profile of the AWS tools" } else { "" }
)]
struct NoCredentials {
    store: Store,
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::client::HttpRequestBody;

    #[tokio::test]
    async fn who_is_refused_credentials_is_told_so_with_the_same_status() {
        let mut response = HttpResponse::new(String::from("denied").into());
        *response.status_mut() = 403u16.try_into().unwrap();
        let told = refused_credentials(Store::Az, response).await.unwrap();
        assert_eq!(told.status().as_u16(), 403);
        let body = told.into_body().bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.contains("`[object_store.az]`") && text.contains("(denied)"),
            "{text}"
        );
    }

    #[derive(Debug)]
    struct Silent;

    #[async_trait]
    impl HttpService for Silent {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let silence = std::io::Error::other("nobody answers");
            Err(HttpError::new(HttpErrorKind::Connect, silence))
        }
    }

    #[tokio::test]
    async fn whoever_has_no_credentials_is_told_so() {
        let client = Observed {
            inner: HttpClient::new(Silent),
            untrusting: None,
            store: Store::S3,
            purpose: Purpose::Registry,
        };
        let ask = async |address: &str| {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = address.parse().unwrap();
            let error = client.call(request).await.unwrap_err();
            (error.to_string(), error.kind())
        };
        let (told, kind) = ask("http://169.254.169.254/latest/api/token").await;
        // Which is not sent again.
        assert_eq!(kind, HttpErrorKind::Unknown);
        assert!(
            told.contains("no credentials for S3 are in `[object_store.s3]` nor in the AWS_*"),
            "{told}"
        );
        let (told, kind) = ask("https://s3.example.org/bucket").await;
        assert_eq!(kind, HttpErrorKind::Connect);
        assert!(!told.contains("no credentials"), "{told}");
    }

    #[tokio::test]
    async fn without_authorities_only_plain_requests_are_sent() {
        let client = Observed {
            inner: HttpClient::new(Silent),
            untrusting: Some("there are none"),
            store: Store::S3,
            purpose: Purpose::Registry,
        };
        let ask = async |address: &str| {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = address.parse().unwrap();
            client.call(request).await.unwrap_err()
        };
        let plain = ask("http://127.0.0.1:9000/bucket").await;
        assert_eq!(plain.kind(), HttpErrorKind::Connect);
        let told = ask("https://s3.example.org/bucket").await;
        // Which is not sent again.
        assert_eq!(told.kind(), HttpErrorKind::Unknown);
        assert!(told.to_string().contains("ca-certificates"), "{told}");
    }
}
