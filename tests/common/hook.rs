//! A server on loopback that takes news, as `notify.webhook` names one.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The running server; it ends with the process.
pub(crate) struct Hook {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&told);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Some(news) = take(client) {
                    kept.lock().unwrap().push(news);
                }
            }
        });
        Hook { address, told }
    }

    /// An address with a password in it, as those of chat services have.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/services/hunter2", self.address)
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

/// Reads one request and answers that all is well. What it is told is kept before that.
fn take(client: TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(client);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let news = serde_json::from_slice(&body).ok();
    reader.into_inner().write_all(answer).ok()?;
    news
}
