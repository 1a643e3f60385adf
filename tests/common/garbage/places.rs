//! The broken files and the misbehaving web pages that the messages point to.

use super::super::pictures::{
    bmp_declaring, encoded, gif_declaring, jpeg_declaring, png_declaring, progressive_jpeg,
    scan_bomb,
};
use super::super::web_server::Answer;
use image::ImageFormat;
use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The size cap that the items are made for.
pub(super) const MAX_MIB: u64 = 1;

/// Puts broken files below `folder`.
pub(super) fn fill(folder: &Path) {
    let inside = folder.join("inside");
    std::fs::create_dir_all(inside.join("folder")).unwrap();
    std::fs::create_dir_all(folder.join("other")).unwrap();
    let jpeg = encoded(64, ImageFormat::Jpeg);
    let png = encoded(64, ImageFormat::Png);
    std::fs::write(folder.join("outside.jpg"), &jpeg).unwrap();
    std::fs::write(folder.join("other/outside.jpg"), &jpeg).unwrap();
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let mut hole = half(&jpeg);
    hole.extend_from_slice(&[0xff, 0xd9]);
    let mut checksum = png.clone();
    let at = png.len() / 2;
    checksum[at] ^= 0x40;
    let mut wild = encoded(16, ImageFormat::Tiff);
    wild[4..8].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("good.jpg", jpeg.clone()),
        ("huge.bin", vec![0; (MAX_MIB << 20) as usize + 1]),
        ("bomb.jpg", jpeg_declaring(65_000, 65_000)),
        ("bomb.png", png_declaring(100_000, 100_000)),
        ("bomb.gif", gif_declaring(65_000, 65_000)),
        ("bomb.bmp", bmp_declaring(60_000, 60_000)),
        ("text.jpg", b"this is not a picture\n".to_vec()),
        (
            "drawing.svg",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(),
        ),
        ("paper.pdf", b"%PDF-1.7\n".to_vec()),
        (
            "picture.avif",
            b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".to_vec(),
        ),
        ("zeros.jpg", vec![0; 1000]),
        ("empty.jpg", Vec::new()),
        ("half.jpg", half(&jpeg)),
        ("half-progressive.jpg", half(&progressive_jpeg(64))),
        ("no-last-bytes.jpg", jpeg[..jpeg.len() - 40].to_vec()),
        ("hole.jpg", hole),
        ("nothing.jpg", jpeg_declaring(0, 0)),
        ("scans.jpg", scan_bomb(400)),
        ("header.jpg", jpeg[..20].to_vec()),
        ("half.png", half(&png)),
        ("checksum.png", checksum),
        ("nothing.png", png_declaring(0, 0)),
        ("half.gif", half(&encoded(64, ImageFormat::Gif))),
        ("half.webp", half(&encoded(64, ImageFormat::WebP))),
        ("half.bmp", half(&encoded(64, ImageFormat::Bmp))),
        ("half.tiff", half(&encoded(64, ImageFormat::Tiff))),
        ("wild.tiff", wild),
    ];
    for (name, bytes) in files {
        std::fs::write(inside.join(name), bytes).unwrap();
    }
    for (target, name) in [
        ("../outside.jpg", "link-out.jpg"),
        ("../other", "folder-out"),
        ("good.jpg", "link-inside.jpg"),
        ("nowhere.jpg", "link-nowhere.jpg"),
        ("link-circle.jpg", "link-circle.jpg"),
        ("/dev/zero", "zero"),
    ] {
        symlink(target, inside.join(name)).unwrap();
    }
    let pipe = std::ffi::CString::new(inside.join("pipe").to_str().unwrap()).unwrap();
    // SAFETY: the path is a valid C string for the duration of the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
}

/// What the web server answers, by path.
pub(super) fn answers() -> HashMap<String, Answer> {
    let png = encoded(16, ImageFormat::Png);
    let good = || Answer::ok("image/png", &png);
    let chunked = {
        let mut raw =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
        for part in png.chunks(100) {
            raw.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            raw.extend_from_slice(part);
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"0\r\n\r\n");
        Answer::Raw(raw)
    };
    let then = |n, first, second| Answer::Then(n, Box::new(first), Box::new(second));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n";
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
    [
        ("/good.png", good()),
        ("/chunked.png", chunked),
        ("/redirect-to-good", Answer::redirect("/redirect-again")),
        ("/redirect-again", Answer::redirect("/good.png")),
        (
            "/flaky.png",
            then(2, Answer::status("503 Service Unavailable", ""), good()),
        ),
        (
            "/busy.png",
            then(
                1,
                Answer::status("429 Too Many Requests", "Retry-After: 0\r\n"),
                good(),
            ),
        ),
        (
            "/redirect-to-metadata",
            Answer::redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        (
            "/redirect-to-loopback",
            Answer::redirect("http://127.0.0.2/good.png"),
        ),
        (
            "/redirect-to-host",
            Answer::redirect("https://example.org/a.png"),
        ),
        ("/redirect-to-file", Answer::redirect("file:///etc/passwd")),
        (
            "/redirect-to-data",
            Answer::redirect("data:image/png;base64,AAAA"),
        ),
        (
            "/redirect-with-password",
            Answer::redirect("http://me:secret@127.0.0.1/"),
        ),
        ("/redirect-to-nothing", Answer::redirect("http://[")),
        ("/circle", Answer::redirect("/circle")),
        ("/gone.png", Answer::status("410 Gone", "")),
        ("/unauthorised.png", Answer::status("401 Unauthorized", "")),
        ("/forbidden.png", Answer::status("403 Forbidden", "")),
        (
            "/broken.png",
            Answer::status("500 Internal Server Error", ""),
        ),
        ("/teapot.png", Answer::status("418 I'm a teapot", "")),
        (
            "/not-http",
            Answer::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ),
        ("/closed.png", Answer::Raw(Vec::new())),
        (
            "/short-body.png",
            Answer::Raw(format!("{head}Content-Length: 5000\r\n\r\nshort").into_bytes()),
        ),
        ("/silence", Answer::Silence),
        ("/slow-head", Answer::Stall(head.into())),
        (
            "/slow-body",
            Answer::Stall(format!("{head}Content-Length: 5000\r\n\r\nslow").into_bytes()),
        ),
        (
            "/announced-huge.png",
            Answer::Stall(format!("{head}Content-Length: 99999999999\r\n\r\n").into_bytes()),
        ),
        (
            "/endless.png",
            Answer::Endless(format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes()),
        ),
        (
            "/page.jpg",
            Answer::ok(
                "image/jpeg",
                "<!DOCTYPE html><html><body>Please log in</body></html>",
            ),
        ),
        (
            "/error.jpg",
            Answer::ok("image/jpeg", "{\"error\":\"quota\"}"),
        ),
        (
            "/gzip.png",
            Answer::Raw(
                [
                    format!("{head}Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n")
                        .as_bytes(),
                    gzip,
                ]
                .concat(),
            ),
        ),
        ("/empty.png", Answer::ok("image/png", "")),
        ("/no-content.png", Answer::status("204 No Content", "")),
    ]
    .into_iter()
    .map(|(path, answer)| (path.to_string(), answer))
    .collect()
}
