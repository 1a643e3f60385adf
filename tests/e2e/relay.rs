//! A relay in front of the broker: it names itself, or a place that is no good, as the broker's
//! address, and can freeze or be gone.

use crate::harness::bootstrap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The key of requests that commit offsets, in Kafka's protocol.
const OFFSET_COMMIT: [u8; 2] = [0, 8];

const PASS: u8 = 0;
const FREEZE_AT_COMMIT: u8 = 1;
const FROZEN: u8 = 2;
const GONE: u8 = 3;

/// A running relay.
#[derive(Clone)]
pub(crate) struct Relay {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// A relay whose clients are told that the broker is where the relay is.
    pub(crate) fn start() -> Self {
        Self::with(|relay| ("127.0.0.1".into(), relay.port()))
    }

    /// A relay whose clients are sent on to where nobody listens. Returns that address, too.
    pub(crate) fn sending_astray() -> (Self, String) {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let relay = Self::with(|_| ("127.0.0.1".into(), closed.port()));
        (relay, closed.to_string())
    }

    fn with(advertised: impl FnOnce(SocketAddr) -> (String, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Relay {
            address,
            mode: Arc::default(),
            open: Arc::default(),
        };
        let names = Names::new(advertised(address));
        let accepting = relay.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if accepting.mode.load(Ordering::SeqCst) == GONE {
                    continue;
                }
                let server = TcpStream::connect(bootstrap()).unwrap();
                let kept = [&client, &server].map(|s| s.try_clone().unwrap());
                accepting.open.lock().unwrap().extend(kept);
                let (up, down) = (accepting.clone(), accepting.clone());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || up.requests(from, to));
                let names = names.clone();
                std::thread::spawn(move || down.answers(server, client, &names));
            }
        });
        relay
    }

    /// Where it is, for `kafka.brokers`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// From the next commit of offsets on nothing is passed on; connections stay open.
    pub(crate) fn freeze_at_commit(&self) {
        self.mode.store(FREEZE_AT_COMMIT, Ordering::SeqCst);
    }

    /// Whether nothing is passed on.
    pub(crate) fn is_frozen(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == FROZEN
    }

    /// Closes all connections, and new ones at once.
    pub(crate) fn vanish(&self) {
        self.mode.store(GONE, Ordering::SeqCst);
        self.close();
    }

    /// Passes on again, over new connections.
    pub(crate) fn come_back(&self) {
        self.mode.store(PASS, Ordering::SeqCst);
        self.close();
    }

    fn close(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn wait_while_frozen(&self) {
        while self.is_frozen() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn requests(&self, mut from: TcpStream, mut to: TcpStream) {
        while let Some(frame) = frame(&mut from) {
            let commits = frame[4..].starts_with(&OFFSET_COMMIT);
            if commits && self.mode.load(Ordering::SeqCst) == FREEZE_AT_COMMIT {
                self.mode.store(FROZEN, Ordering::SeqCst);
            }
            self.wait_while_frozen();
            if to.write_all(&frame).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }

    fn answers(&self, mut from: TcpStream, mut to: TcpStream, names: &Names) {
        while let Some(frame) = frame(&mut from) {
            self.wait_while_frozen();
            if to.write_all(&names.replaced(frame)).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}

/// One request or answer, with its length before it; `None` at the end.
fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame).ok()?;
    let length = i32::from_be_bytes(frame[..4].try_into().unwrap());
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// The broker's own address in answers, and what stands there instead: of the same length.
#[derive(Clone)]
struct Names {
    own: Vec<u8>,
    other: Vec<u8>,
}

impl Names {
    fn new((host, port): (String, u16)) -> Self {
        let (own_host, own_port) = bootstrap()
            .rsplit_once(':')
            .map(|(h, p)| (h.to_owned(), p.parse::<u16>().unwrap()))
            .unwrap();
        // `localhost` is as long as `127.0.0.1`.
        assert_eq!(own_host.len(), host.len(), "{own_host}");
        let bytes =
            |host: &str, port: u16| [host.as_bytes(), &i32::from(port).to_be_bytes()].concat();
        Names {
            own: bytes(&own_host, own_port),
            other: bytes(&host, port),
        }
    }

    fn replaced(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let length = self.own.len();
        for at in 0..frame.len().saturating_sub(length - 1) {
            if frame[at..at + length] == self.own {
                frame[at..at + length].copy_from_slice(&self.other);
            }
        }
        frame
    }
}
