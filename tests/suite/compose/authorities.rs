//! Stores on a machine that has no certificates of authorities: one that is asked without TLS is
//! there all the same, and of one that is not it is said once what is missing.

use crate::common::object_server::serve_objects;
use std::process::Command;

fn asked(endpoint: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    command
        .args(["registry", "list", "--registry", "s3://bucket/registry"])
        .envs([
            ("SSL_CERT_FILE", "/nowhere"),
            ("SSL_CERT_DIR", "/nowhere"),
            ("AWS_ENDPOINT", endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_store_without_tls_needs_nobody_s_certificate() {
    let said = asked(&serve_objects(Vec::new(), &[]));
    assert!(said.contains("registry"), "{said}");
    assert!(!said.contains("certificate"), "{said}");
}

#[test]
fn a_store_with_tls_says_once_what_is_missing() {
    let said = asked("https://127.0.0.1:9");
    let told = said.matches("can check nobody's certificate").count();
    assert_eq!(told, 1, "{said}");
    assert!(said.contains("ca-certificates"), "{said}");
}
