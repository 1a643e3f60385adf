//! A web server on loopback that may misbehave in every way: it sends exactly the bytes it is told
//! to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a path answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These bytes, head included, then the connection is closed.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// These bytes, then nothing, for ever.
    Stall(Vec<u8>),
    /// These bytes, then zeros without end, in chunks.
    Endless(Vec<u8>),
    /// The first answer `n` times, then the second.
    Then(usize, Box<Answer>, Box<Answer>),
}

impl Answer {
    /// A well-formed answer.
    pub(crate) fn ok(content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut raw = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        raw.extend_from_slice(body);
        Answer::Raw(raw)
    }

    /// A status line, further headers and no body.
    pub(crate) fn status(status: &str, headers: &str) -> Self {
        Answer::Raw(
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
                .into_bytes(),
        )
    }

    /// A redirect.
    pub(crate) fn redirect(location: &str) -> Self {
        Self::status("302 Found", &format!("Location: {location}\r\n"))
    }
}

/// The running server; it ends with the runtime it was started on.
pub(crate) struct WebServer {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl WebServer {
    /// Listens on `host`, on a free port if `port` is 0. Unknown paths are 404.
    pub(crate) async fn start(host: &str, port: u16, answers: HashMap<String, Answer>) -> Self {
        let listener = TcpListener::bind((host, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let answers = Arc::new(answers);
        tokio::spawn(async move {
            let seen: Arc<std::sync::Mutex<HashMap<String, usize>>> = Arc::default();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let Some((path, mut stream)) = request(stream).await else {
                        return;
                    };
                    counted.fetch_add(1, Ordering::SeqCst);
                    let turn = {
                        let mut seen = seen.lock().unwrap();
                        let turn = seen.entry(path.clone()).or_default();
                        *turn += 1;
                        *turn
                    };
                    let not_found = Answer::status("404 Not Found", "");
                    let mut answer = answers.get(&path).unwrap_or(&not_found);
                    if let Answer::Then(n, first, second) = answer {
                        answer = if turn <= *n { first } else { second };
                    }
                    // The peer may hang up at any time: that is what some tests want.
                    let _ = send(&mut stream, answer).await;
                });
            }
        });
        WebServer { address, requests }
    }

    /// Requests read so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn request(mut stream: TcpStream) -> Option<(String, TcpStream)> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(n @ 1..) if head.len() < 64 << 10 => head.extend_from_slice(&part[..n]),
            _ => return None,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1)?.to_string();
    Some((path, stream))
}

async fn send(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    match answer {
        Answer::Raw(bytes) => {
            stream.write_all(bytes).await?;
            stream.shutdown().await
        }
        Answer::Silence => std::future::pending().await,
        Answer::Stall(bytes) => {
            stream.write_all(bytes).await?;
            std::future::pending().await
        }
        Answer::Endless(bytes) => {
            stream.write_all(bytes).await?;
            let mut chunk = b"4000\r\n".to_vec();
            chunk.extend_from_slice(&[0; 0x4000]);
            chunk.extend_from_slice(b"\r\n");
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Answer::Then(..) => unreachable!("resolved by the caller"),
    }
}
