//! The one place that every request passes.

use super::sessions::COOKIE;
use super::tokens::digest_of;
use super::{Access, is_name, same};
use crate::ops::connections::Peer;
use crate::ops::token_buckets::TokenBuckets;
use crate::serve::body;
use crate::serve::frame::{self, Trouble};
use crate::serve::studio::{is_of_label_studio, takes_labels};
use crate::serve::visitor::{Role, Visitor};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE as COOKIES, HOST,
    ORIGIN, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use url::form_urlencoded;

/// Largest form, bytes.
const LARGEST_FORM: usize = 256 << 10;
/// The field of a form that shows that a page of ours made it.
const TOKEN_FIELD: &str = "form_token";

/// What may be loaded, sent and framed: nothing but what these pages serve themselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The fields of a form that passed the guard: somebody who may act sent it from a page of ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActForm(BTreeMap<String, String>);

impl ActForm {
    /// A field without blanks around it; empty if it is missing.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// A field that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name).parse().ok()
    }
}

/// Whether a path is asked by machines: it takes bodies of its own, of kinds that no form has.
fn is_for_machines(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with("/v2/") || is_of_label_studio(path)
}

/// Lets a request through to the pages, or answers it.
pub(crate) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut answer = match admit(&access, parts, body).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused,
    };
    harden(answer.headers_mut());
    answer
}

/// Headers that every answer has; what an answer says of itself (a report's own policy) stays.
fn harden(headers: &mut HeaderMap) {
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    let resource = HeaderName::from_static("cross-origin-resource-policy");
    let permissions = HeaderName::from_static("permissions-policy");
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not `no-referrer`: with that, browsers hide the origin of forms.
        (REFERRER_POLICY, "same-origin"),
        (opener, "same-origin"),
        (resource, "same-origin"),
        (permissions, "camera=(), geolocation=(), microphone=()"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

async fn admit(access: &Access, mut parts: Parts, body: Body) -> Result<Request, Response> {
    let peer = parts
        .extensions
        .get::<ConnectInfo<Peer>>()
        .map(|info| info.0.0.ip());
    let peer = peer.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, "no peer", ""))?;
    let proxied = access.is_proxy(peer);
    if !proxied {
        limit(&access.requests, &peer.to_string())?;
    }
    let host = text(&parts.headers, HOST.as_str()).unwrap_or_default();
    if !access.is_ours(&host) {
        return Err(refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "These pages have another name",
            "The name in this request is none of theirs; whoever runs them can add it to \
             `serve.hosts`.",
        ));
    }
    let path = parts.uri.path();
    let anybodys = path == "/login" || path.starts_with("/assets/");
    let by_password = is_of_label_studio(path);
    let (visitor, by_bearer) = match access.visitor_of(&parts.headers, peer, by_password)? {
        Some((visitor, by_bearer)) => (visitor, by_bearer),
        None if anybodys => (access.visitor("nobody", "", Role::Read), false),
        None if access.tokens.is_some() && wants_a_page(&parts) => {
            return Err(Redirect::to("/login").into_response());
        }
        None => {
            return Err(refuse(
                StatusCode::UNAUTHORIZED,
                "Who are you?",
                "This needs a token (`Authorization: Bearer ...`), or the proxy's word.",
            ));
        }
    };
    if proxied {
        limit(&access.requests, &visitor.name)?;
    }
    if parts.method == Method::GET || parts.method == Method::HEAD {
        parts.extensions.insert(visitor);
        return Ok(Request::from_parts(parts, body));
    }
    if is_for_machines(path) {
        if takes_labels(path) && !visitor.acts() {
            return Err(may_not_act());
        }
        // A foreign page can neither send these kinds of body unasked nor read an answer.
        same_origin(&parts.headers, &host)?;
        parts.extensions.insert(visitor);
        return Ok(Request::from_parts(parts, body));
    }
    if path != "/login" && path != "/logout" {
        // First: what is refused is told, and nobody fills the log by it.
        limit(&access.acts, &visitor.name)?;
        if !visitor.acts() {
            return Err(refused_act(path, &visitor, may_not_act()));
        }
        same_origin(&parts.headers, &host)
            .map_err(|refused| refused_act(path, &visitor, refused))?;
    }
    same_origin(&parts.headers, &host)?;
    let form = form(&parts.headers, body).await?;
    let shown = form.0.get(TOKEN_FIELD).map_or("", String::as_str);
    if !by_bearer && !same(shown.as_bytes(), visitor.form_token.as_bytes()) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "This form is not from here, or too old",
            "Load the page again and repeat what you did.",
        ));
    }
    parts.extensions.insert(visitor);
    parts.extensions.insert(form);
    Ok(Request::from_parts(parts, Body::empty()))
}

impl Access {
    /// Who asks, and whether a token in a header says so: a header is not sent by a foreign page.
    /// As a password a token counts only where it is said: browsers keep passwords and send them
    /// unasked.
    fn visitor_of(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        by_password: bool,
    ) -> Result<Option<(Visitor, bool)>, Response> {
        if let Some(name) = &self.proxy_header
            && self.is_proxy(peer)
            && let Some(name) = text(headers, name)
        {
            if !is_name(&name) {
                let what = "The proxy names nobody";
                return Err(refuse(
                    StatusCode::UNAUTHORIZED,
                    what,
                    "Its header is no name.",
                ));
            }
            let acts = self.proxy_act.iter().any(|one| one == "*" || *one == name);
            let role = if acts { Role::Act } else { Role::Read };
            return Ok(Some((self.visitor("proxy", &name, role), false)));
        }
        let Some(tokens) = &self.tokens else {
            let open = self.is_open() && peer.to_canonical().is_loopback();
            let visitor = self.visitor("local", &self.local_name, Role::Act);
            return Ok(open.then_some((visitor, false)));
        };
        if let Some(sent) = text(headers, AUTHORIZATION.as_str()) {
            let password = sent.strip_prefix("Basic ").filter(|_| by_password);
            let token = match password {
                Some(pair) => password_of(pair),
                None => sent
                    .strip_prefix("Bearer ")
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            };
            let Some(holder) = tokens.holder(&digest_of(&token)) else {
                limit(&self.acts, &format!("failed {peer}"))?;
                tracing::warn!(target: "audit", act = "login", %peer, outcome = "refused");
                let advice = "The token is not one of the file, or not any more.";
                return Err(refuse(StatusCode::UNAUTHORIZED, "Who are you?", advice));
            };
            return Ok(Some((
                self.visitor("token", &holder.name, holder.role),
                true,
            )));
        }
        let Some(id) = cookie(headers) else {
            return Ok(None);
        };
        let holder = self
            .sessions
            .token(&id)
            .and_then(|digest| tokens.holder(&digest));
        Ok(holder.map(|holder| {
            // Bound to the session: a form of an older one is none of this.
            let mut visitor = self.visitor("session", &holder.name, holder.role);
            visitor.form_token = self.form_token("session", &id);
            visitor.session = true;
            (visitor, false)
        }))
    }
}

/// The password of a name and password in base 64; empty if it is none.
fn password_of(pair: &str) -> String {
    let bytes = STANDARD.decode(pair.trim()).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.split_once(':')
        .map_or("", |(_, password)| password)
        .to_owned()
}

/// The value of our cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<String> {
    let all = headers
        .get_all(COOKIES)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = all
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim() == COOKIE)?;
    Some(value.trim().to_owned())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    // Two of them are nobody's: which one would a proxy in front have meant?
    let value = values.next().filter(|_| values.next().is_none())?;
    Some(value.to_str().ok()?.trim().to_owned())
}

fn wants_a_page(parts: &Parts) -> bool {
    let accepts = text(&parts.headers, "accept").unwrap_or_default();
    parts.method == Method::GET && accepts.contains("text/html")
}

/// Refuses what another site's page sent. Browsers say where a request comes from; other clients
/// do not, and have no cookies that somebody else could use.
fn same_origin(headers: &HeaderMap, host: &str) -> Result<(), Response> {
    let foreign = || {
        refuse(
            StatusCode::FORBIDDEN,
            "This came from another site",
            "What changes something is taken from these pages only.",
        )
    };
    if headers.contains_key(ORIGIN) {
        let origin = text(headers, ORIGIN.as_str()).unwrap_or_default();
        let theirs = origin.split_once("://").map(|(_, host)| host);
        return match theirs.is_some_and(|theirs| theirs.eq_ignore_ascii_case(host)) {
            true => Ok(()),
            false => Err(foreign()),
        };
    }
    match text(headers, "sec-fetch-site").as_deref() {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

async fn form(headers: &HeaderMap, body: Body) -> Result<ActForm, Response> {
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        let what = "This is no form";
        return Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            what,
            "Send it as one.",
        ));
    }
    let bytes = body::whole(body, LARGEST_FORM).await.ok_or_else(|| {
        let what = "This form is too large";
        refuse(StatusCode::PAYLOAD_TOO_LARGE, what, "It may have 256 KiB.")
    })?;
    Ok(ActForm(
        form_urlencoded::parse(&bytes).into_owned().collect(),
    ))
}

fn limit(limits: &TokenBuckets<String>, name: &str) -> Result<(), Response> {
    limits.take(name).map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        // As short as can be: whoever floods is answered often.
        let mut answer = (StatusCode::TOO_MANY_REQUESTS, "too many requests\n").into_response();
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
        answer
    })
}

/// An act that was tried and refused leaves a line, too.
fn refused_act(path: &str, visitor: &Visitor, refused: Response) -> Response {
    // As long as a path of ours is.
    let path: String = path.chars().take(64).collect();
    tracing::warn!(
        target: "audit", act = "refused", who = %visitor.name, path,
        outcome = refused.status().as_u16()
    );
    refused
}

fn may_not_act() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        "You may look, but not act",
        "Your name has the role `read`; this needs `act`.",
    )
}

fn refuse(status: StatusCode, what: &str, advice: &str) -> Response {
    frame::trouble(&Trouble {
        status,
        what,
        advice,
    })
}
