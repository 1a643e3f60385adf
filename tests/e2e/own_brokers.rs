//! Brokers of a test's own, which it may kill, rob of the end of a log, and start again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cluster that a test may break; it is gone with this.
pub(crate) struct OwnBrokers {
    folder: tempfile::TempDir,
    /// As clients are told.
    pub bootstrap: String,
}

/// The first of `count` ports that are free, and so are those for the controllers.
fn free_ports(count: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    loop {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = free.local_addr().unwrap().port();
        drop(free);
        // `scripts/kafka.sh` gives controllers the ports 100 above.
        if first.checked_add(100 + count).is_some()
            && (first..first + count).all(|port| is_free(&port) && is_free(&(port + 100)))
        {
            return first;
        }
    }
}

impl OwnBrokers {
    /// Starts one broker, or three.
    pub(crate) fn start(count: u16) -> OwnBrokers {
        let mut brokers = OwnBrokers {
            folder: tempfile::tempdir().unwrap(),
            bootstrap: String::new(),
        };
        let (port, count) = (free_ports(count).to_string(), count.to_string());
        brokers.bootstrap = brokers.script(&["start", "--port", &port, "--brokers", &count]);
        brokers
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("kafka")
    }

    fn script(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh");
        let output = Command::new(script)
            .args(arguments)
            .env("TAGSTREAM_KAFKA_DIR", self.data())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Kills a broker at once; its data stay.
    pub(crate) fn kill(&self, node: i32) {
        self.script(&["kill", &node.to_string()]);
    }

    /// Starts a broker again on its data.
    pub(crate) fn restart(&self, node: i32) {
        self.script(&["restart", &node.to_string()]);
    }

    /// Removes what partition 0 of `topic` has from `offset` on, where there is one broker.
    pub(crate) fn cut(&self, topic: &str, offset: i64) {
        self.kill(1);
        let log = self.data().join(format!("node-1/{topic}-0"));
        let segment = log.join(format!("{:020}.log", 0));
        let bytes = std::fs::read(&segment).unwrap();
        let mut at = 0;
        // A batch: its first offset, the length of the rest, the rest.
        while at < bytes.len() {
            let first = i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
            if first >= offset {
                break;
            }
            let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
            at += 12 + length as usize;
        }
        assert!(at < bytes.len(), "there is nothing to cut");
        std::fs::write(&segment, &bytes[..at]).unwrap();
        self.restart(1);
    }
}

impl Drop for OwnBrokers {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}
