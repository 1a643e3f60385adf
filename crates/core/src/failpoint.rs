//! Failpoints: places where a test can make the process die, fail, hang or stop.
//!
//! Armed by the environment: `TAGSTREAM_FAILPOINTS="put.after=kill@3,infer.before=error"`. An
//! action is one of
//!
//! | action | what happens |
//! |---|---|
//! | `kill` | SIGKILL to this process: nothing is flushed, no destructor runs |
//! | `stop` | SIGSTOP to this process: it freezes until it gets SIGCONT (a zombie, if its partitions move meanwhile) |
//! | `term` | SIGTERM to this process, which goes on: it drains, commits and leaves |
//! | `error` | the step fails with [`Injected`] |
//! | `abort` | the process aborts, as a native library makes it |
//! | `panic` | the task panics, as a bug makes it |
//! | `hoard` | memory is taken until somebody ends the process |
//! | `hang` | the step never ends |
//! | `delayN` | the step takes N milliseconds longer |
//! | `on` | a sabotage is in force, see below |
//!
//! `@N` arms the N-th pass only (the first is 1); without it every pass. Places are a step of
//! [`MESSAGE_STEPS`] or [`OTHER_STEPS`] with `.before` or `.after`, `source.poll` (`delayN` only),
//! and `marked`: the decoding of an image whose id begins with [`MARK`]. A name that is none of
//! these is refused.
//!
//! A sabotage breaks a rule of the protocol on purpose, so that it can be seen that the chaos
//! checker finds it:
//!
//! | sabotage | what is broken |
//! |---|---|
//! | `sabotage.put.overwrite` | files are put whatever is there |
//! | `sabotage.commit.early` | Kafka's offset is committed before the put |
//! | `sabotage.resume.trust` | a partition goes on at Kafka's committed offset, whatever the files say |
//!
//! Without debug assertions and without the cargo feature `failpoints` (a release build) nothing of
//! this is compiled in.

/// The steps that a message is taken through, in their order.
pub const MESSAGE_STEPS: [&str; 6] = [
    "fetch",
    "infer",
    "predictions.ack",
    "dead_letter.ack",
    "put",
    "offset.commit",
];

/// The other steps: a swap of the model, a move of the registry's pointer, the taking of the
/// retraining job's lease.
pub const OTHER_STEPS: [&str; 3] = ["swap", "pointer", "lease"];

/// Begins the ids of images that pass the place `marked`.
pub const MARK: &str = "marked";

/// The places before and after each of `steps`.
pub fn places(steps: &[&str]) -> Vec<String> {
    let around = |step: &&str| [format!("{step}.before"), format!("{step}.after")];
    steps.iter().flat_map(around).collect()
}

/// The error that the action `error` makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failpoint {0} was told to fail")]
pub struct Injected(pub &'static str);

/// Passes a place where an object store is used: an injected failure looks like one of the store.
///
/// # Errors
/// [`object_store::Error::Generic`] if the environment says so.
pub async fn pass_store(name: &'static str) -> Result<(), object_store::Error> {
    pass(name)
        .await
        .map_err(|injected| object_store::Error::Generic {
            store: "failpoint",
            source: Box::new(injected),
        })
}

/// Whether the sabotage `name` is in force.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub fn is_on(name: &'static str) -> bool {
    matches!(armed::next(name), Some(armed::Action::On))
}

/// Whether the sabotage `name` is in force: never in this build.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline(always)]
pub const fn is_on(_name: &'static str) -> bool {
    false
}

/// Passes the place `name`.
///
/// # Errors
/// [`Injected`] if the environment says so.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub async fn pass(name: &'static str) -> Result<(), Injected> {
    match armed::next(name) {
        None => Ok(()),
        Some(armed::Action::On) => Ok(()),
        Some(armed::Action::Error) => {
            tracing::warn!(name, "failpoint: error");
            Err(Injected(name))
        }
        Some(armed::Action::Hang) => {
            tracing::warn!(name, "failpoint: hang");
            std::future::pending().await
        }
        Some(armed::Action::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Some(armed::Action::Abort) => std::process::abort(),
        Some(armed::Action::Panic) => panic!("failpoint {name} was told to panic"),
        Some(armed::Action::Hoard) => armed::hoard(),
        Some(armed::Action::Signal(signal)) => {
            tracing::warn!(name, signal, "failpoint: signal");
            armed::signal_self(signal);
            Ok(())
        }
    }
}

/// Passes the place `name` on a thread that may be blocked: only `delayN` means anything there.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub fn pass_blocking(name: &'static str) {
    if let Some(armed::Action::Delay(delay)) = armed::next(name) {
        std::thread::sleep(delay);
    }
}

/// Passes the place `name`.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline(always)]
pub fn pass_blocking(_name: &'static str) {}

/// Passes the place `name`.
///
/// # Errors
/// None in this build.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline(always)]
pub async fn pass(_name: &'static str) -> Result<(), Injected> {
    Ok(())
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod armed {
    use crate::failpoint::{MESSAGE_STEPS, OTHER_STEPS, places};
    use std::collections::HashMap;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// Names beside those of steps.
    const OTHER_NAMES: [&str; 5] = [
        "marked",
        "source.poll",
        "sabotage.put.overwrite",
        "sabotage.commit.early",
        "sabotage.resume.trust",
    ];

    fn exists(name: &str) -> bool {
        let steps = [&MESSAGE_STEPS[..], &OTHER_STEPS].concat();
        OTHER_NAMES.contains(&name) || places(&steps).iter().any(|place| place == name)
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        On,
        Error,
        Hang,
        Delay(Duration),
        Abort,
        Panic,
        Hoard,
        Signal(&'static str),
    }

    #[derive(Debug)]
    pub(super) struct Point {
        pub action: Action,
        pub at: Option<u64>,
        pub passes: AtomicU64,
    }

    pub(super) fn parse(text: &str) -> Result<HashMap<String, Point>, String> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let bad = || format!("TAGSTREAM_FAILPOINTS: {part:?} is not PLACE=ACTION[@N]");
                let (name, rest) = part.split_once('=').ok_or_else(bad)?;
                if !exists(name) {
                    return Err(format!("TAGSTREAM_FAILPOINTS: there is no place {name:?}"));
                }
                let (action, at) = match rest.split_once('@') {
                    Some((action, at)) => (action, Some(at.parse().map_err(|_| bad())?)),
                    None => (rest, None),
                };
                let action = match action {
                    "kill" => Action::Signal("KILL"),
                    "stop" => Action::Signal("STOP"),
                    "term" => Action::Signal("TERM"),
                    "on" => Action::On,
                    "error" => Action::Error,
                    "hang" => Action::Hang,
                    "abort" => Action::Abort,
                    "panic" => Action::Panic,
                    "hoard" => Action::Hoard,
                    _ => {
                        let delay = action.strip_prefix("delay").and_then(|n| n.parse().ok());
                        Action::Delay(Duration::from_millis(delay.ok_or_else(bad)?))
                    }
                };
                let passes = AtomicU64::new(0);
                Ok((name.to_owned(), Point { action, at, passes }))
            })
            .collect()
    }

    static POINTS: LazyLock<HashMap<String, Point>> = LazyLock::new(|| {
        let text = std::env::var("TAGSTREAM_FAILPOINTS").unwrap_or_default();
        parse(&text).unwrap_or_else(|error| panic!("{error}"))
    });

    pub(super) fn next(name: &str) -> Option<Action> {
        // A place that the lists do not know could not be armed.
        debug_assert!(exists(name), "{name} is on no list");
        let point = POINTS.get(name)?;
        let pass = point.passes.fetch_add(1, Ordering::SeqCst) + 1;
        point.at.is_none_or(|at| at == pass).then_some(point.action)
    }

    /// Takes memory, and writes to it, until the system ends the process.
    pub(super) fn hoard() -> ! {
        let mut hoard = Vec::new();
        loop {
            hoard.push(std::hint::black_box(vec![1_u8; 16 << 20]));
        }
    }

    /// Sends a signal to this process through `kill(1)`, which needs no unsafe code; waits until it
    /// has arrived.
    pub(super) fn signal_self(signal: &str) {
        let id = std::process::id().to_string();
        let sent = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(
            sent.as_ref().is_ok_and(|s| s.success()),
            "kill -{signal} {id}: {sent:?}"
        );
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn actions_are_read_and_nonsense_is_refused() {
            let points = parse("put.after=kill@3,infer.before=error").unwrap();
            assert_eq!(points["put.after"].at, Some(3));
            assert_eq!(points["infer.before"].action, Action::Error);
            let slow = &parse("put.before=delay250").unwrap()["put.before"];
            assert_eq!(slow.action, Action::Delay(Duration::from_millis(250)));
            for bad in ["put", "explode", "kill@x", "delay"] {
                assert!(parse(&format!("put.after={bad}")).is_err(), "{bad}");
            }
            for nowhere in ["put", "put.during", "output.after", "sabotage"] {
                let error = parse(&format!("{nowhere}=kill")).unwrap_err();
                assert!(error.contains(nowhere), "{error}");
            }
        }
    }
}
