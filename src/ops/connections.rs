//! The connections of the HTTP port: a bounded number, none of them idle for long.
//!
//! Each open connection is a descriptor of the process, and whoever reaches the port can open as
//! many as it likes. When the bound is reached the connection that has been quiet for longest is
//! closed, so that a probe is heard although others hold theirs open. One address may open only so
//! many a second: those beyond are closed unread, unless they begin as a request that is always
//! heard. So a flood of garbage costs the work of the process next to nothing, and a probe is heard
//! in the midst of it.

use super::token_buckets::TokenBuckets;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::FutureExt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

/// Pause after the system gave no connection (no descriptors, no memory).
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// An address may be ahead of its rate by what it may open in this time: a page, a restart and a
/// script open many at once.
const AHEAD_SECONDS: u32 = 16;
/// Pause of whoever accepts, once it has closed all that were too many: woken for each of them it
/// would cost more than what it closes.
const FLOODED_PAUSE: Duration = Duration::from_millis(5);

/// How many connections, and for how long without an answer going out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections at a time.
    pub most: usize,
    /// Most connections that one address (of IPv6: one /64) opens a second, over some seconds; 0:
    /// as many as it likes.
    pub a_second: u32,
    /// A connection is closed when nothing was sent on it for this long: a request must have
    /// arrived whole by then, and the next one begun and ended.
    pub idle: Duration,
}

/// Connections that may be closed for others.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    quiet_since: Instant,
    /// Dropped to close the connection.
    close: Option<oneshot::Sender<()>>,
}

impl Table {
    fn add(&mut self) -> (u64, oneshot::Receiver<()>) {
        let (close, closed) = oneshot::channel();
        self.next += 1;
        self.open.push(Entry {
            number: self.next,
            quiet_since: Instant::now(),
            close: Some(close),
        });
        (self.next, closed)
    }

    fn close_the_quietest(&mut self) {
        let open = self.open.iter_mut().filter(|e| e.close.is_some());
        if let Some(entry) = open.min_by_key(|e| e.quiet_since) {
            entry.close = None;
        }
    }

    fn spoke(&mut self, number: u64) {
        if let Some(entry) = self.open.iter_mut().find(|e| e.number == number) {
            entry.quiet_since = Instant::now();
        }
    }
}

/// A listener within [`ConnectionLimits`].
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    limits: ConnectionLimits,
    rate: Option<TokenBuckets<IpAddr>>,
    /// How requests begin that are heard at any rate.
    always: &'static [&'static str],
    /// Whether the last one was too many.
    flooded: bool,
    places: Arc<Semaphore>,
    table: Arc<Mutex<Table>>,
}

impl Bounded {
    /// Takes over `listener`. Requests that begin with one of `always` (`GET /health`) are heard at
    /// any rate.
    ///
    /// # Errors
    /// If the system does not let it wait for connections.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        listener: std::net::TcpListener,
        limits: ConnectionLimits,
        always: &'static [&'static str],
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Bounded {
            listener: TcpListener::from_std(listener)?,
            always,
            flooded: false,
            limits,
            rate: (limits.a_second > 0)
                .then(|| TokenBuckets::a_second(limits.a_second, AHEAD_SECONDS)),
            places: Arc::new(Semaphore::new(limits.most.clamp(1, Semaphore::MAX_PERMITS))),
            table: Arc::default(),
        })
    }

    /// The next connection.
    async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        if std::mem::take(&mut self.flooded) {
            if let Some(accepted) = self.listener.accept().now_or_never() {
                return accepted;
            }
            tokio::time::sleep(FLOODED_PAUSE).await;
        }
        self.listener.accept().await
    }

    /// Whether what was said on a connection so far may become a request that is always heard.
    fn is_heard(&self, stream: &TcpStream) -> bool {
        let mut said = [0; 16];
        // Past the runtime, which has not heard yet that there is something.
        let same = stream.as_fd().try_clone_to_owned();
        let peeked = same.and_then(|same| std::net::TcpStream::from(same).peek(&mut said));
        match peeked {
            Ok(0) => false,
            Ok(count) => self.always.iter().any(|start| {
                let both = count.min(start.len());
                said[..both] == start.as_bytes()[..both]
            }),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock && !self.always.is_empty(),
        }
    }

    /// Whether `peer` has opened too many of late.
    fn is_too_often(&self, peer: IpAddr) -> bool {
        let rate = self.rate.as_ref();
        rate.is_some_and(|rate| rate.take(&network(peer)).is_err())
    }

    /// A place for one more; another connection gives way if there is none.
    async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return place;
        }
        self.table
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .close_the_quietest();
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.expect("the semaphore is never closed")
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = match self.next().await {
                Ok(accepted) => accepted,
                Err(error) if is_the_peers(&error) => continue,
                Err(error) => {
                    tracing::debug!(%error, "the HTTP port got no connection");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            if self.is_too_often(address.ip()) && !self.is_heard(&stream) {
                metrics::counter!("tagstream_http_connections_refused_total").increment(1);
                self.flooded = true;
                continue;
            }
            let place = self.place().await;
            let mut table = self.table.lock().unwrap_or_else(|e| e.into_inner());
            let (number, closed) = table.add();
            drop(table);
            let connection = Connection {
                stream,
                number,
                closed,
                idle: self.limits.idle,
                quiet: Box::pin(sleep_until(Instant::now() + self.limits.idle)),
                table: Arc::clone(&self.table),
                _place: place,
            };
            return (connection, address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What counts as one address: whoever has one of IPv6 has all of its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// Whom a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Peer(*stream.remote_addr())
    }
}

/// Whether it was the peer that ended a connection which was being accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// A connection that ends when it has been quiet for too long, or has to make room.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    number: u64,
    closed: oneshot::Receiver<()>,
    idle: Duration,
    quiet: Pin<Box<Sleep>>,
    table: Arc<Mutex<Table>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.quiet.as_mut().poll(context).is_ready()
            || Pin::new(&mut self.closed).poll(context).is_ready()
    }

    /// Ends what waits for the peer, if it is time.
    fn unless_over<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_pending() && self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }

    fn spoke(&mut self) {
        self.quiet.as_mut().reset(Instant::now() + self.idle);
        let mut table = self.table.lock().unwrap_or_else(|e| e.into_inner());
        table.spoke(self.number);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(|e| e.into_inner());
        table.open.retain(|e| e.number != self.number);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let outcome = Pin::new(&mut self.stream).poll_read(context, into);
        self.unless_over(context, outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(1..)) = outcome {
            self.spoke();
        }
        self.unless_over(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        if let Poll::Ready(Ok(1..)) = outcome {
            self.spoke();
        }
        self.unless_over(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn served(most: usize, idle: Duration) -> SocketAddr {
        let a_second = 0;
        served_within(ConnectionLimits {
            most,
            a_second,
            idle,
        })
        .await
    }

    async fn served_within(limits: ConnectionLimits) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded::new(listener, limits, &["GET /heard"]).unwrap();
        let here = || get(|| async { "here" });
        let routes = Router::new().route("/", here()).route("/heard", here());
        tokio::spawn(async move { axum::serve(bounded, routes).await });
        address
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<String> {
        stream.write_all(REQUEST).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            let mut part = [0; 512];
            match stream.read(&mut part).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&part[..count]),
            }
        }
        Ok(String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn the_quietest_connection_gives_way_and_the_newest_is_heard() {
        let address = served(4, Duration::from_secs(3_600)).await;
        let mut open = Vec::new();
        for _ in 0..40 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = ask(&mut stream).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            open.push(stream);
        }
        let mut heard = 0;
        for stream in &mut open {
            heard += ask(stream).await.is_ok() as usize;
        }
        assert_eq!(heard, 4);
        for stream in open.iter_mut().rev().take(4) {
            assert!(ask(stream).await.is_ok(), "the newest stay");
        }
    }

    #[tokio::test]
    async fn silence_and_a_request_that_never_ends_are_closed() {
        let address = served(4, Duration::from_millis(200)).await;
        for sent in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            let trickle = async {
                // A byte now and then does not keep the connection.
                let (mut read, mut write) = stream.split();
                let mut rest = Vec::new();
                let end = read.read_to_end(&mut rest);
                tokio::pin!(end);
                loop {
                    tokio::select! {
                        _ = &mut end => return,
                        () = tokio::time::sleep(Duration::from_millis(20)) => {
                            if !sent.is_empty() && write.write_all(b"x").await.is_err() {
                                return;
                            }
                        }
                    }
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(30), trickle).await;
            assert!(ended.is_ok(), "still open");
        }
    }

    /// A connection to `server` from another of the machine's own addresses.
    async fn connect_from(from: &str, server: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(server).await.unwrap()
    }

    #[tokio::test]
    async fn who_opens_too_many_is_refused_and_others_are_heard() {
        let address = served_within(ConnectionLimits {
            most: 400,
            a_second: 2,
            idle: Duration::from_secs(3_600),
        })
        .await;
        let (mut heard, mut refused) = (0, 0);
        let began = Instant::now();
        for _ in 0..150 {
            let mut stream = connect_from("127.0.0.1", address).await;
            // What is said is there when somebody accepts, or it would be waited for.
            match stream.write_all(b"GET /els").await.is_ok() && ask(&mut stream).await.is_ok() {
                true => heard += 1,
                false => refused += 1,
            }
        }
        let ahead = 2 * AHEAD_SECONDS;
        let most = ahead + (2.0 * began.elapsed().as_secs_f64()) as u32 + 1;
        assert!(heard <= most, "{heard} heard, {most} allowed");
        assert_eq!(heard + refused, 150);
        let mut probe = connect_from("127.0.0.1", address).await;
        let request = b"GET /heard HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut other = connect_from("127.0.0.2", address).await;
        assert!(ask(&mut other).await.is_ok(), "another address");
    }

    #[test]
    fn an_address_of_ipv6_counts_with_its_network_and_a_mapped_one_as_what_it_is() {
        let one = |text: &str| network(text.parse().unwrap());
        assert_eq!(one("2001:db8:1:2:aaaa::1"), one("2001:db8:1:2:bbbb::9"));
        assert_ne!(one("2001:db8:1:2::1"), one("2001:db8:1:3::1"));
        assert_eq!(one("::ffff:192.0.2.7"), one("192.0.2.7"));
    }
}
