//! A web server on loopback that answers for objects as S3, Google Cloud Storage and Azure do, as
//! far as reading goes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Serves `picture` below every path that ends with one of `names`; returns its address.
pub(crate) fn serve_objects(picture: Vec<u8>, names: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |mut stream: TcpStream| {
        let mut head = Vec::new();
        let mut part = [0; 4096];
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(n @ 1..) => head.extend_from_slice(&part[..n]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let path = percent_encoding::percent_decode_str(path.split('?').next().unwrap());
        let path = path.decode_utf8_lossy().into_owned();
        let found = names.iter().any(|name| path.ends_with(name));
        let (status, body) = match found {
            true => ("200 OK", &picture[..]),
            false => ("404 Not Found", &b""[..]),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: image/png\r\nContent-Length: {}\r\nETag: \"e\"\r\n\
             Last-Modified: Sat, 31 Jan 2026 12:00:00 GMT\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // Whoever asked may have hung up.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body));
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream);
        }
    });
    format!("http://{address}")
}
