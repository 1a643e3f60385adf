//! What the registry's commands print.

use serde::Serialize;
use tagstream_model::registry::{HistoryEntry, Pointer, Pruning, Spared, VersionRecord};

#[derive(Serialize)]
pub(super) struct Listing {
    pub(super) pointer: Option<Pointer>,
    pub(super) versions: Vec<VersionRecord>,
    pub(super) history: Vec<HistoryEntry>,
}

pub(super) fn print<T: Serialize>(
    value: &T,
    json: bool,
    human: impl FnOnce(&T),
) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        human(value);
    }
    Ok(())
}

pub(super) fn print_pruning(pruning: &Pruning, dry_run: bool) {
    let Pruning {
        kept,
        removed,
        blobs,
        bytes,
    } = pruning;
    let would = if dry_run { "would be " } else { "" };
    for (version, why) in kept.iter().filter(|(_, why)| **why != Spared::Newest) {
        let why = match why {
            Spared::Newest => "among the newest",
            Spared::Serves => "serves",
            Spared::Served => "served",
            Spared::Ancestor => "is an ancestor of a version that stays",
            Spared::Keeps => "keeps what the next retraining reads",
            Spared::Asked => "was asked for",
        };
        println!("version {version} stays: it {why}");
    }
    let mib = bytes >> 20;
    println!(
        "{} versions {would}removed, {} stay",
        removed.len(),
        kept.len()
    );
    println!("{blobs} blobs of {mib} MiB {would}removed");
    if dry_run {
        let numbers: Vec<String> = removed.iter().map(u64::to_string).collect();
        println!("versions that would go: {}", numbers.join(", "));
    }
}

pub(super) fn print_pointer(pointer: &Pointer) {
    if let (Some(version), Some(id)) = (pointer.version, &pointer.id) {
        println!("version {version} serves: {id}");
    }
}

pub(super) fn print_listing(listing: &Listing) {
    let serving = listing.pointer.as_ref().and_then(|p| p.version);
    println!("    version  created               categories  verdict  id");
    for v in &listing.versions {
        let mark = if Some(v.version) == serving {
            "->"
        } else {
            "  "
        };
        let judged = listing.history.iter().filter(|e| e.version == v.version);
        let verdict = judged.filter_map(|e| e.verdict).next_back();
        println!(
            " {mark} {:>7}  {}  {:>10}  {:<7}  {}",
            v.version,
            v.created.format("%Y-%m-%d %H:%M:%SZ"),
            v.categories,
            verdict.map_or("-".into(), |v| v.to_string()),
            v.id
        );
    }
    println!();
    for entry in &listing.history {
        print_entry(entry);
    }
}

pub(super) fn print_version(listing: &Listing) {
    let serving = listing.pointer.as_ref().and_then(|p| p.version);
    for v in &listing.versions {
        let serves = if Some(v.version) == serving {
            ", serving"
        } else {
            ""
        };
        println!("version {}{serves}: {}", v.version, v.id);
        println!("parent      {}", v.parent.as_deref().unwrap_or("-"));
        let registered = v.created.format("%Y-%m-%d %H:%M:%SZ");
        println!("registered  {registered} by {}: {}", v.who, v.why);
        for (name, value) in &v.metrics {
            println!("metric      {name} = {value:.4}");
        }
        for (name, entry) in v.files.iter().chain(&v.attachments) {
            println!(
                "file        {:<24} {:>12} bytes  {}",
                name, entry.bytes, entry.sha256
            );
        }
    }
    for entry in &listing.history {
        print_entry(entry);
    }
}

fn print_entry(entry: &HistoryEntry) {
    println!(
        "{:>4}  {}  version {} {} by {}: {}",
        entry.sequence,
        entry.time.format("%Y-%m-%d %H:%M:%SZ"),
        entry.version,
        entry.action,
        entry.who,
        entry.why
    );
}
