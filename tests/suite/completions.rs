//! Completion scripts and manual pages: made, taken by the shell that they are for, and of every
//! command that there is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn tagstream(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The subcommands that `--help` of a command lists.
fn commands_of(command: &[&str]) -> BTreeSet<String> {
    let mut arguments = command.to_vec();
    arguments.push("--help");
    let output = tagstream(&arguments);
    assert!(output.status.success(), "{arguments:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let listed = listed.split("\n\n").next().unwrap_or_default();
    // A description that is wrapped goes on further to the right.
    let names = listed.lines().filter_map(|line| {
        let name = line.strip_prefix("  ").filter(|l| !l.starts_with(' '))?;
        name.split_whitespace().next()
    });
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn script(shell: &str, folder: &Path) -> std::path::PathBuf {
    let output = tagstream(&["completions", shell]);
    assert!(output.status.success(), "{shell}");
    let file = folder.join(shell);
    std::fs::write(&file, output.stdout).unwrap();
    file
}

/// What bash offers where the words are these, the last one unfinished.
fn offered_by_bash(script: &Path, words: &[&str]) -> BTreeSet<String> {
    let (last, before) = (words.len() - 1, words[words.len() - 2]);
    let asked = format!(
        "source {script:?}; COMP_WORDS=({}); COMP_CWORD={last}; \
         _tagstream tagstream {:?} {before:?}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words[last],
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &asked])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let script = script("bash", folder.path());
    let offered = offered_by_bash(&script, &["tagstream", "re"]);
    assert!(
        offered.contains("registry") && offered.contains("retrain"),
        "{offered:?}"
    );
    let offered = offered_by_bash(&script, &["tagstream", "run", "--until"]);
    assert_eq!(offered, BTreeSet::from(["--until-drained".to_owned()]));
    let offered = offered_by_bash(&script, &["tagstream", "registry", "pro"]);
    assert_eq!(offered, BTreeSet::from(["promote".to_owned()]));
}

#[test]
fn every_shell_has_a_script_that_names_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let commands = commands_of(&[]);
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = std::fs::read_to_string(script(shell, folder.path())).unwrap();
        for command in &commands {
            assert!(text.contains(command.as_str()), "{shell}: {command}");
        }
    }
}

/// Whoever reads has read enough: no panic, no failure.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let program = env!("CARGO_BIN_EXE_tagstream");
    let piped = format!("set -o pipefail; {program:?} completions zsh | true");
    let output = Command::new("bash").args(["-c", &piped]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("not/there/yet");
    let output = tagstream(&["man", pages.to_str().unwrap()]);
    assert!(output.status.success());
    let mut expected = BTreeSet::from(["tagstream.1".to_owned()]);
    for command in commands_of(&[]) {
        for below in commands_of(&[&command]) {
            expected.insert(format!("tagstream-{command}-{below}.1"));
        }
        expected.insert(format!("tagstream-{command}.1"));
    }
    for page in &expected {
        let text = std::fs::read_to_string(pages.join(page));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains("\n.TH tagstream"), "{page}");
        assert!(text.contains("\n.SH SYNOPSIS\n"), "{page}");
    }
    // Beside them only clap's own `help` pages.
    for page in std::fs::read_dir(&pages).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        assert!(
            expected.contains(&name) || name.contains("-help"),
            "{name} is of no command"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("pages");
    let output = tagstream(&["man", below.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(below.to_str().unwrap()), "{said}");
}
