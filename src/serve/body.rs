//! Bodies of requests, within a bound.

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

/// Most bytes beyond the bound that are read on, and dropped. Whoever is still writing when the
/// answer comes and the connection ends hears of a broken pipe, and not of what was wrong.
const READ_ON: usize = 8 << 20;

/// The whole body; `None` if it has more than `most` bytes, or ends before its end.
pub(super) async fn whole(body: Body, most: usize) -> Option<Bytes> {
    let announced = body.size_hint().lower();
    if announced > (most + READ_ON) as u64 {
        return None;
    }
    let (mut parts, mut whole, mut over) = (body.into_data_stream(), BytesMut::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.ok()?;
        if over == 0 && whole.len() + part.len() <= most {
            whole.extend_from_slice(&part);
            continue;
        }
        over += part.len();
        whole = BytesMut::new();
        if over > READ_ON {
            return None;
        }
    }
    (over == 0).then(|| whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_whole_or_none() {
        let parts = |parts: &[&'static [u8]]| {
            let parts: Vec<Result<&[u8], std::io::Error>> = parts.iter().map(|p| Ok(*p)).collect();
            Body::from_stream(futures::stream::iter(parts))
        };
        let read = whole(parts(&[b"ab", b"c"]), 3).await;
        assert_eq!(read.as_deref(), Some(&b"abc"[..]));
        assert_eq!(whole(parts(&[b"ab", b"cd", b""]), 3).await, None);
        assert_eq!(whole(Body::from(vec![0; 4 << 20]), 3).await, None);
        assert_eq!(whole(Body::from(vec![0; 20 << 20]), 3).await, None);
        let broken = [Ok(&b"ab"[..]), Err(std::io::Error::other("gone"))];
        let broken = Body::from_stream(futures::stream::iter(broken));
        assert_eq!(whole(broken, 3).await, None);
    }
}
