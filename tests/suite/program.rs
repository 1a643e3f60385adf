//! The program in a folder of its own: with a registry and a cache there, and no configuration of
//! the machine's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// What `tagstream` with these arguments does here.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .args(arguments)
            .current_dir(self.root())
            .env("TAGSTREAM_REGISTRY", self.path("registry"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("TAGSTREAM_CONFIG")
            .output()
            .unwrap()
    }

    /// Standard output and standard error of a command that must succeed.
    pub(crate) fn both(&self, arguments: &[&str]) -> [String; 2] {
        let output = self.run(arguments);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        assert!(output.status.success(), "{arguments:?}: {}", said[1]);
        said
    }

    /// Runs a command that must succeed; gives what it printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let [printed, _] = self.both(arguments);
        printed
    }

    /// Runs a command that must fail; gives its exit code and what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {said}");
        (output.status.code(), said)
    }
}
