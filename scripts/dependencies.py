#!/usr/bin/env python3
"""docs/dependencies.md has a row for every crate that a Cargo.toml names, and none for others.

scripts/dependencies.py     fails and names each crate without a row, and each row without a crate
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "docs/dependencies.md"
KINDS = ("dependencies", "dev-dependencies", "build-dependencies")
# What stands behind this heading is not a dependency.
LEFT_OUT = "## Looked at and left out"


def manifests() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*Cargo.toml"]
    return subprocess.run(
        listed, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def crates(manifest: dict) -> set[str]:
    """What a manifest names, also for the workspace and for single platforms."""
    tables = [manifest, manifest.get("workspace", {}), *manifest.get("target", {}).values()]
    found = set()
    for table in tables:
        for kind in KINDS:
            for name, wanted in table.get(kind, {}).items():
                details = wanted if isinstance(wanted, dict) else {}
                found.add(details.get("package", name))
    return found


def own(manifest: dict) -> set[str]:
    return {manifest["package"]["name"]} if "package" in manifest else set()


def main() -> None:
    named: dict[str, str] = {}
    ours: set[str] = set()
    for path in manifests():
        manifest = tomllib.loads((ROOT / path).read_text())
        ours |= own(manifest)
        for crate in crates(manifest):
            named.setdefault(crate, path)
    rows: dict[str, int] = {}
    wrong = []
    for number, line in enumerate((ROOT / DOCUMENT).read_text().split("\n"), 1):
        if line == LEFT_OUT:
            break
        row = re.match(r"\| `([\w-]+)` \|", line)
        if row and row[1] in rows:
            wrong.append(f"{DOCUMENT}:{number}: {row[1]} has a row already, on line {rows[row[1]]}")
        if row:
            rows[row[1]] = number
    for crate in sorted(set(named) - ours - set(rows)):
        wrong.append(f"{named[crate]}: {crate} has no row in {DOCUMENT}")
    for crate in sorted(set(rows) - set(named)):
        wrong.append(f"{DOCUMENT}:{rows[crate]}: no Cargo.toml names {crate}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
