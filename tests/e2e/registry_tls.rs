//! A schema registry that asks for a certificate.

use crate::registry::{AVRO, avro, send_all, uri, world};
use crate::topics::{run, text};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Files of an authority, and of a server and a client that it vouches for, made by OpenSSL.
fn authority(folder: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let made = command
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{arguments}: {}", text(&made.stderr));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj";
    openssl(&format!(
        "req -x509 -days 2 {new} /CN=authority -keyout ca.key -out ca.pem"
    ));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    for name in ["server", "client"] {
        openssl(&format!(
            "req {new} /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
        openssl(&format!(
            "x509 -req -in {name}.csr {signed} -out {name}.pem"
        ));
    }
}

/// A process that ends with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A registry that lets nobody in without a certificate of the authority, as OpenSSL's server.
fn strict_registry(folder: &Path) -> (Served, String) {
    let body = json!({"schema": AVRO}).to_string();
    std::fs::create_dir_all(folder.join("schemas/ids")).unwrap();
    let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";
    std::fs::write(folder.join("schemas/ids/1"), format!("{head}{body}")).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let server = Command::new("openssl")
        .args(["s_server", "-accept", &address, "-HTTP", "-quiet"])
        .args([
            "-cert",
            "server.pem",
            "-key",
            "server.key",
            "-CAfile",
            "ca.pem",
        ])
        .args(["-Verify", "1", "-verify_return_error"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Served(server);
    let began = std::time::Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(
            began.elapsed().as_secs() < 60,
            "OpenSSL's server does not listen"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (server, format!("https://{address}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_certificate_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    authority(folder.path());
    let (_server, url) = strict_registry(folder.path());
    let mut world = world("mutual", &url);
    let at = |name: &str| folder.path().join(name).display().to_string();
    world.config.source.registry.ca_file = at("ca.pem");
    let sent = avro(5, &uri(&world, 0));
    send_all(&world, &[sent]);
    // Without one the registry cannot be asked, which is no message's fault.
    let refused = run(&world, &["source", "check"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(75), "{said}");
    assert!(
        said.contains("the schema registry at") && said.contains("certificate_file"),
        "{said}"
    );
    world.config.source.registry.certificate_file = at("client.pem");
    world.config.source.registry.key_file = at("ca.pem");
    let wrong = run(&world, &["source", "check"]);
    let said = text(&wrong.stderr);
    assert!(
        said.contains("source.registry.key_file") && said.contains("no private key"),
        "{said}"
    );
    world.config.source.registry.key_file = at("client.key");
    world.drain().await.unwrap();
    let ids: Vec<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    assert_eq!(ids, ["5"]);
}
