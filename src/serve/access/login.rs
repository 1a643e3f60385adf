//! Typing a token in, and leaving.

use super::Access;
use super::guard::{ActForm, cookie};
use super::sessions::COOKIE;
use super::tokens::digest_of;
use crate::ops::connections::Peer;
use crate::serve::frame;
use crate::serve::visitor::Visitor;
use axum::extract::{ConnectInfo, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use maud::html;
use std::sync::Arc;

/// `/login` and `/logout`.
pub(crate) fn routes(access: Arc<Access>) -> Router {
    Router::new()
        .route("/login", get(ask).post(enter))
        .route("/logout", post(leave))
        .with_state(access)
}

async fn ask(Extension(visitor): Extension<Visitor>) -> Response {
    page(&visitor, false).into_response()
}

fn page(visitor: &Visitor, wrong: bool) -> Response {
    let body = html! {
        section.narrow {
            h1 { "Who are you?" }
            p.soft { "Type the token that whoever runs these pages gave you." }
            @if wrong {
                p.bad role="alert" { "That is none of the tokens." }
            }
            form.stack method="post" action="/login" {
                input type="hidden" name="form_token" value=(visitor.form_token);
                label for="token" { "Token" }
                input #token type="password" name="token" autocomplete="current-password"
                    required autofocus;
                button.main type="submit" { "Enter" }
            }
        }
    };
    let status = if wrong {
        StatusCode::UNAUTHORIZED
    } else {
        StatusCode::OK
    };
    (status, frame::bare("Who are you?", &body)).into_response()
}

async fn enter(
    State(access): State<Arc<Access>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<ActForm>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
) -> Response {
    let Some(tokens) = &access.tokens else {
        return Redirect::to("/").into_response();
    };
    // Right ones count, too: whoever guesses must not learn that they have guessed right.
    if access.acts.take(&format!("login {}", peer.ip())).is_err() {
        let text = "too many logins; wait a minute\n";
        return (StatusCode::TOO_MANY_REQUESTS, text).into_response();
    }
    let digest = digest_of(form.field("token"));
    let Some(holder) = tokens.holder(&digest) else {
        tracing::warn!(target: "audit", act = "login", peer = %peer.ip(), outcome = "refused");
        return page(&visitor, true);
    };
    let id = access.sessions.begin(digest);
    tracing::info!(
        target: "audit", act = "login", who = %holder.name, peer = %peer.ip(), outcome = "done"
    );
    with_cookie(
        &access,
        &format!("{COOKIE}={id}; HttpOnly; SameSite=Strict; Path=/"),
    )
}

async fn leave(
    State(access): State<Arc<Access>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
) -> Response {
    if let Some(id) = cookie(&headers) {
        access.sessions.end(&id);
    }
    tracing::info!(target: "audit", act = "logout", who = %visitor.name, outcome = "done");
    with_cookie(
        &access,
        &format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"),
    )
}

fn with_cookie(access: &Access, cookie: &str) -> Response {
    let secure = if access.https { "; Secure" } else { "" };
    let mut answer = Redirect::to("/").into_response();
    // Made of hexadecimal digits and our own words.
    if let Ok(value) = HeaderValue::from_str(&format!("{cookie}{secure}")) {
        answer.headers_mut().insert(SET_COOKIE, value);
    }
    answer
}
