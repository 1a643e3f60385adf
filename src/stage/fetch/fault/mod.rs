//! Whose fault it is that an image was not had. The whole table stands in `docs/faults.md`, which
//! the tests here write and check.
//!
//! | fault | what becomes of the message |
//! |---|---|
//! | its own | a dead letter |
//! | the far side's: a host, a bucket, a mounted folder | it waits for the place, within `fetch.outage_wait_ms` |
//! | ours | it waits until this process can go on; the stage is not ready |

use std::error::Error;
use std::ffi::CStr;
use std::fmt;
use std::io;
use tagstream_core::events::DeadLetterKind;

/// What this process, or the machine it runs on, lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Descriptors of files and connections.
    Descriptors,
    /// Memory of the system or of its network.
    Memory,
    /// Room on a disk.
    Disk,
    /// Somebody who resolves names.
    Names,
    /// Ports, routes, or a firewall's leave to connect.
    Network,
    /// A store's credentials or options that work.
    Credentials,
    /// An allowed folder that is not there, or whose file system is not.
    Folder,
}

impl Resource {
    /// Every one.
    pub const ALL: [Resource; 7] = [
        Resource::Descriptors,
        Resource::Memory,
        Resource::Disk,
        Resource::Names,
        Resource::Network,
        Resource::Credentials,
        Resource::Folder,
    ];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Descriptors => "descriptors",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
            Resource::Names => "names",
            Resource::Network => "network",
            Resource::Credentials => "credentials",
            Resource::Folder => "folder",
        }
    }

    /// What is to be done about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Resource::Descriptors => "raise the limit of open files (`ulimit -n`)",
            Resource::Memory => "give the machine more memory, or lower `memory.budget_mib`",
            Resource::Disk => "make room on the disk",
            Resource::Names => "look at the machine's resolver (/etc/resolv.conf)",
            Resource::Network => "look at the machine's network, its firewall and its free ports",
            Resource::Credentials => {
                "look at `[object_store]`, the environment's credentials and the machine's clock"
            }
            Resource::Folder => "mount what `fetch.allow_path_prefixes` names",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message's own.
    Message,
    /// The far side's. It is the message's own after all once the place has answered for another
    /// image so many times right after it had not for this one.
    FarSide { others_answered: u8 },
    /// The far side's if the place has answered before, else the message's own.
    FarSideIfKnown,
    /// Ours.
    Own(Resource),
}

/// What a place said or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Symptom {
    /// The system, while connecting, sending or receiving.
    Socket(i32),
    /// The system, about a local file.
    File(i32),
    /// An allowed folder is not what it was when the process started.
    FolderGone,
    /// A name that nobody has, or that has no address.
    NoSuchName,
    /// The resolver failed for this name, and not for others.
    NameFailed,
    /// The resolver fails for every name.
    NoResolver,
    /// No connection in time, or no image within the deadline.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The connection ended early, or what came is no HTTP.
    Broken,
    /// A web server's status.
    Status(u16),
    /// A web server that asked to be left alone for a while.
    LeaveAlone(u16),
    /// More redirects than allowed, or to what is no address.
    Redirects,
    /// A store's status, and the code in its answer if there was one.
    Store(u16, String),
    /// A store's client cannot be made.
    NoClient,
    /// There are no credentials for a store.
    NoCredentials,
    /// Anything else.
    Other,
}

/// What a symptom means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub fault: Fault,
    /// The dead letter, if it comes to one by the message's own fault.
    pub kind: DeadLetterKind,
    /// Whether the same attempt may be repeated at once.
    pub repeat: bool,
}

/// An outage that touches all images of a place looks like this twice before one image is blamed.
const TWICE: Fault = Fault::FarSide { others_answered: 2 };
/// A place that answers others with the image and this one with a refusal.
const ONCE: Fault = Fault::FarSide { others_answered: 1 };
/// Throttling hits whom it hits.
const BUSY: Fault = Fault::FarSide {
    others_answered: BUSY_ANSWERS,
};
/// How often others must be answered before one image is blamed for being throttled.
pub(super) const BUSY_ANSWERS: u8 = 8;

/// Codes of stores that speak of our credentials, not of the object.
const CREDENTIAL_CODES: [&str; 15] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "RequestExpired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AuthFailure",
    "AuthorizationHeaderMalformed",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "PermanentRedirect",
];
/// Codes of stores that ask for fewer requests.
const BUSY_CODES: [&str; 6] = [
    "SlowDown",
    "ServerBusy",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
];

/// The one place that says whose fault it is.
pub(super) fn judge(symptom: &Symptom) -> Verdict {
    use DeadLetterKind as Kind;
    let verdict = |fault, kind, repeat| Verdict {
        fault,
        kind,
        repeat,
    };
    let own = |resource| verdict(Fault::Own(resource), Kind::FetchFailed, false);
    match symptom {
        Symptom::Socket(errno) => match lacking(*errno) {
            Some(resource) => own(resource),
            None if matches!(*errno, libc::EACCES | libc::EPERM | libc::ENETDOWN)
                || matches!(*errno, libc::EADDRNOTAVAIL | libc::EADDRINUSE) =>
            {
                own(Resource::Network)
            }
            None => verdict(TWICE, Kind::FetchFailed, true),
        },
        Symptom::File(errno) => match lacking(*errno) {
            Some(resource) => own(resource),
            None => file(*errno),
        },
        Symptom::FolderGone => own(Resource::Folder),
        Symptom::NoSuchName => verdict(Fault::FarSideIfKnown, Kind::NotFound, false),
        Symptom::NameFailed => verdict(TWICE, Kind::FetchFailed, true),
        Symptom::NoResolver => own(Resource::Names),
        Symptom::Timeout => verdict(TWICE, Kind::FetchTimeout, true),
        Symptom::Tls | Symptom::Broken | Symptom::Other => verdict(TWICE, Kind::FetchFailed, true),
        Symptom::Status(404 | 410) => verdict(Fault::Message, Kind::NotFound, false),
        Symptom::Status(401 | 402 | 403 | 407 | 451) => {
            verdict(Fault::Message, Kind::AccessDenied, false)
        }
        Symptom::Status(408 | 425 | 500..=599) => verdict(TWICE, Kind::FetchFailed, true),
        Symptom::Status(429) | Symptom::LeaveAlone(_) => verdict(BUSY, Kind::FetchFailed, true),
        Symptom::Status(_) | Symptom::Redirects => {
            verdict(Fault::Message, Kind::FetchFailed, false)
        }
        Symptom::Store(status, code) => store(*status, code),
        Symptom::NoClient | Symptom::NoCredentials => own(Resource::Credentials),
    }
}

/// What this process lacks, if that is why a file could not be read.
pub(super) fn of_reading(error: &io::Error) -> Option<Resource> {
    match error.kind() {
        io::ErrorKind::OutOfMemory => Some(Resource::Memory),
        _ => lacking(error.raw_os_error()?),
    }
}

/// What of ours the system says it has too little of.
fn lacking(errno: i32) -> Option<Resource> {
    match errno {
        libc::EMFILE | libc::ENFILE => Some(Resource::Descriptors),
        libc::ENOMEM | libc::ENOBUFS => Some(Resource::Memory),
        libc::ENOSPC | libc::EDQUOT => Some(Resource::Disk),
        _ => None,
    }
}

fn file(errno: i32) -> Verdict {
    use DeadLetterKind as Kind;
    let (fault, kind) = match errno {
        libc::ENOENT | libc::ENOTDIR => (Fault::Message, Kind::NotFound),
        libc::EACCES | libc::EPERM => (Fault::Message, Kind::AccessDenied),
        libc::ELOOP | libc::EINVAL | libc::ENAMETOOLONG | libc::ENXIO | libc::ENODEV => {
            (Fault::Message, Kind::FetchFailed)
        }
        _ => (TWICE, Kind::FetchFailed),
    };
    Verdict {
        fault,
        kind,
        repeat: fault == TWICE,
    }
}

fn store(status: u16, code: &str) -> Verdict {
    use DeadLetterKind as Kind;
    let (fault, kind) = match status {
        _ if CREDENTIAL_CODES.contains(&code) => {
            (Fault::Own(Resource::Credentials), Kind::AccessDenied)
        }
        401 => (Fault::Own(Resource::Credentials), Kind::AccessDenied),
        429 => (BUSY, Kind::FetchFailed),
        _ if BUSY_CODES.contains(&code) => (BUSY, Kind::FetchFailed),
        _ if matches!(code, "NoSuchBucket" | "ContainerNotFound") => (ONCE, Kind::NotFound),
        403 => (ONCE, Kind::AccessDenied),
        404 | 410 => (Fault::Message, Kind::NotFound),
        408 | 500..=599 => (TWICE, Kind::FetchFailed),
        _ => (Fault::Message, Kind::FetchFailed),
    };
    Verdict {
        fault,
        kind,
        // The stores' clients repeat by themselves what may be repeated.
        repeat: false,
    }
}

/// A name that did not become an address. Found in the sources of the HTTP client's error.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct NameError {
    pub symptom: Symptom,
    pub reason: String,
}

/// What a resolver's error says of the name. The standard library gives the resolver's text, which
/// is the same that the C library gives for the code.
pub(super) fn of_lookup(error: &io::Error) -> Symptom {
    if let Some(errno) = error.raw_os_error() {
        return Symptom::Socket(errno);
    }
    let text = error.to_string();
    let says = |code: i32| {
        // SAFETY: the C library returns a constant, zero-terminated text for every code.
        let known = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        text.ends_with(&*known.to_string_lossy())
    };
    if says(libc::EAI_MEMORY) {
        return Symptom::Socket(libc::ENOMEM);
    }
    if error.kind() == io::ErrorKind::NotFound || says(libc::EAI_NONAME) || says(EAI_NODATA) {
        return Symptom::NoSuchName;
    }
    Symptom::NameFailed
}

/// The name exists and has no address.
#[cfg(target_os = "linux")]
const EAI_NODATA: i32 = libc::EAI_NODATA;
#[cfg(not(target_os = "linux"))]
const EAI_NODATA: i32 = libc::EAI_NONAME;

/// What lies deepest in an error of an HTTP client that says more than its text: the system's
/// number, a name, TLS.
pub(super) fn of_chain(error: &(dyn Error + 'static)) -> Option<Symptom> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(name) = cause.downcast_ref::<NameError>() {
            return Some(name.symptom.clone());
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            if let Some(errno) = io.raw_os_error() {
                return Some(Symptom::Socket(errno));
            }
            if io
                .to_string()
                .starts_with("failed to lookup address information")
            {
                return Some(of_lookup(io));
            }
            // Errors that are wrapped in one of the standard library's are no sources of it.
            if let Some(inner) = io.get_ref()
                && let Some(symptom) = of_chain(inner)
            {
                return Some(symptom);
            }
        }
        if cause.to_string().contains("certificate") || is_tls(cause) {
            found = Some(Symptom::Tls);
        }
        next = cause.source();
    }
    found
}

fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    // The type belongs to a library that is not named here; its text begins like this.
    let text = cause.to_string();
    ["received fatal alert", "received corrupt message", "tls "]
        .iter()
        .any(|begin| text.to_ascii_lowercase().starts_with(begin))
}

#[cfg(test)]
mod tests;
