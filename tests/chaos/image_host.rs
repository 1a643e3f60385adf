//! A web server of images that can be slow, or down in three ways.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Of a slow host, before it answers.
const SLOW: Duration = Duration::from_millis(700);
/// A longer request is none.
const MOST: usize = 16 << 10;

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostFault {
    /// It answers late.
    Slow,
    /// It closes connections.
    Closes,
    /// It answers 503.
    Fails,
    /// It takes requests and says nothing.
    Silent,
}

impl HostFault {
    pub const ALL: [HostFault; 4] = [
        HostFault::Slow,
        HostFault::Closes,
        HostFault::Fails,
        HostFault::Silent,
    ];
}

/// The running server.
pub struct ImageHost {
    address: SocketAddr,
    fault: watch::Sender<Option<HostFault>>,
    hits: Arc<AtomicU64>,
}

impl ImageHost {
    /// Serves `picture` at every path.
    pub async fn start(picture: Vec<u8>) -> Result<ImageHost> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (fault, seen) = watch::channel(None);
        let hits = Arc::new(AtomicU64::new(0));
        let (counted, picture) = (Arc::clone(&hits), Arc::new(picture));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, picture) = (seen.clone(), Arc::clone(&picture));
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    // Whoever asks may be killed meanwhile.
                    let _ = answer(stream, seen, &picture, &counted).await;
                });
            }
        });
        Ok(ImageHost {
            address,
            fault,
            hits,
        })
    }

    /// Where the image of this name is.
    pub fn folder(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Begins a fault, or ends it.
    pub fn set(&self, fault: Option<HostFault>) {
        self.fault.send_replace(fault);
    }

    /// Requests that met a fault.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::SeqCst)
    }
}

async fn answer(
    mut stream: TcpStream,
    mut fault: watch::Receiver<Option<HostFault>>,
    picture: &[u8],
    hits: &AtomicU64,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MOST {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let now = *fault.borrow_and_update();
    if now.is_some() {
        hits.fetch_add(1, Ordering::SeqCst);
    }
    let (status, body) = match now {
        None => ("200 OK", picture),
        Some(HostFault::Slow) => {
            tokio::time::sleep(SLOW).await;
            ("200 OK", picture)
        }
        Some(HostFault::Closes) => return Ok(()),
        Some(HostFault::Fails) => ("503 Service Unavailable", &[][..]),
        Some(HostFault::Silent) => {
            // As long as the fault lasts, the connection stays.
            let _ = fault.changed().await;
            return Ok(());
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}
