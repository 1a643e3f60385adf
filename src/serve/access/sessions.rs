//! Sessions: what a browser's cookie stands for after a token was typed in.

use super::tokens::{TokenDigest, digest_of};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most sessions at a time; the one that was not used for longest gives way.
const MOST: usize = 10_000;
/// The cookie's name.
pub(super) const COOKIE: &str = "tagstream_session";

/// The sessions of this process; they end with it.
#[derive(Debug)]
pub(super) struct Sessions {
    idle: Duration,
    open: Mutex<HashMap<TokenDigest, Session>>,
}

#[derive(Debug)]
struct Session {
    token: TokenDigest,
    used: Instant,
}

impl Sessions {
    pub(super) fn new(idle: Duration) -> Self {
        Sessions {
            idle,
            open: Mutex::default(),
        }
    }

    /// Begins a session of the token's holder and gives the cookie's value.
    pub(super) fn begin(&self, token: TokenDigest) -> String {
        let id = format!(
            "{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        );
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        if open.len() >= MOST
            && let Some(oldest) = open.iter().min_by_key(|(_, s)| s.used).map(|(id, _)| *id)
        {
            open.remove(&oldest);
        }
        // By its digest, so that looking it up tells nothing by the time it takes.
        let used = Instant::now();
        open.insert(digest_of(&id), Session { token, used });
        id
    }

    /// The token by which the session of this cookie began, while it lasts.
    pub(super) fn token(&self, id: &str) -> Option<TokenDigest> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let key = digest_of(id);
        let session = open.get_mut(&key)?;
        if session.used.elapsed() > self.idle {
            open.remove(&key);
            return None;
        }
        session.used = Instant::now();
        Some(session.token)
    }

    pub(super) fn end(&self, id: &str) {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        open.remove(&digest_of(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_begins_lasts_and_ends() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let token = digest_of("t");
        let (one, other) = (sessions.begin(token), sessions.begin(token));
        assert!(one != other && one.len() == 64);
        assert_eq!(sessions.token(&one), Some(token));
        assert_eq!(sessions.token("made up"), None);
        sessions.end(&one);
        assert_eq!(sessions.token(&one), None);
        assert_eq!(sessions.token(&other), Some(token));
        let short = Sessions::new(Duration::ZERO);
        let id = short.begin(token);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(short.token(&id), None, "it was not used for too long");
    }
}
