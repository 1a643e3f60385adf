#!/usr/bin/env python3
"""What the program is made of, from Cargo's own account of it.

scripts/components.py licences FILE    the texts of all licences
scripts/components.py sbom FILE        the list of components as CycloneDX 1.5 JSON

Both tell of what is compiled into the program for this machine's target (`--target T`: another),
and of what Cargo does not know of: `--part NAME VERSION TERMS FILE...`, the files being its
licences. The same sources give the same files: times are those of the commit ($SOURCE_DATE_EPOCH).
"""

import argparse
import html
import json
import os
import re
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = re.compile(r"(?i)^(un)?(licen[cs]e|copying|notice|copyright|thirdpartynotices)([-._].*|s)?$")
# Not a text: sources, and what some crates keep for their own tools.
NO_TEXT = re.compile(r"(?i)\.(rs|c|h|cc|cpp|py|toml|json|ya?ml|sh|in|cmake|html)$")
NO_FOLDER = {"tests", "test", "examples", "fuzz", "benches", "doc", "docs", "target", ".git"}


def host() -> str:
    told = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return re.search(r"host: (\S+)", told)[1]


def metadata(target: str) -> dict:
    asked = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"]
    return json.loads(
        subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def components(told: dict) -> tuple[dict, list[dict], dict[str, list[str]]]:
    """The program's package, what is linked into it or run to build it, and what needs what."""
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    root = next(id for id, package in packages.items() if package["name"] == "tagstream")
    needs: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        current = waiting.pop()
        if current in needs:
            continue
        wanted = [
            dependency["pkg"]
            for dependency in nodes[current]["deps"]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        ]
        needs[current] = sorted(wanted)
        waiting += wanted
    order = sorted(needs, key=lambda id: (packages[id]["name"], packages[id]["version"]))
    return packages[root], [packages[id] for id in order if id != root], needs


def texts_below(folder: Path, depth: int = 2) -> list[Path]:
    """Licence files of a crate, and of the C libraries that it carries."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and depth > 0 and entry.name not in NO_FOLDER:
            found += texts_below(entry, depth - 1)
        elif entry.is_file() and TEXT.match(entry.name) and not NO_TEXT.search(entry.name):
            found.append(entry)
    return found


def licences(packages: list[dict], given: argparse.Namespace) -> str:
    own = [package for package in packages if package["source"]]
    parts: dict[str, list[str]] = {}
    without = []
    for package in own:
        folder = Path(package["manifest_path"]).parent
        name = f"{package['name']} {package['version']} ({licence(package)})"
        files = texts_below(folder)
        for file in files:
            text = file.read_text(errors="replace").strip() + "\n"
            below = file.relative_to(folder)
            where = name if len(below.parts) == 1 else f"{name}, {below.parent}"
            parts.setdefault(text, [])
            if where not in parts[text]:
                parts[text].append(where)
        if not files:
            without.append(f"{name}: {package['repository'] or 'no address'}")
    for name, version, terms, *files in given.part:
        for file in map(Path, files):
            text = plain(file.read_text(errors="replace"), file.suffix)
            parts.setdefault(text, []).append(f"{name} {version} ({terms})")
    lines = [
        "What tagstream is made of, and under which terms. tagstream itself: LICENSE.",
        "",
        "These crates carry no text of their licence; that of the named one stands below.",
        "",
        *without,
    ]
    for text, names in sorted(parts.items(), key=lambda part: part[1]):
        lines += ["", "=" * 80, *names, "-" * 80, "", text.rstrip()]
    return "\n".join(lines) + "\n"


def plain(text: str, suffix: str) -> str:
    """The text of a page without its tags; any other text as it is."""
    if suffix != ".html":
        return text
    text = re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", "", text)
    return re.sub(r"\n\s*\n+", "\n\n", html.unescape(text)).strip() + "\n"


def licence(package: dict) -> str:
    # Older crates write MIT/Apache-2.0.
    return (package["license"] or "see its files").replace("/", " OR ")


def reference(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def checksums() -> dict[tuple[str, str], str]:
    lock = (ROOT / "Cargo.lock").read_text()
    entry = re.compile(r'name = "(.*?)"\nversion = "(.*?)"\nsource = ".*?"\nchecksum = "(.*?)"')
    return {(name, version): hash for name, version, hash in entry.findall(lock)}


def component(package: dict, sums: dict[tuple[str, str], str]) -> dict:
    made = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
        "licenses": [{"expression": licence(package)}] if package["license"] else [],
    }
    if hash := sums.get((package["name"], package["version"])):
        made["hashes"] = [{"alg": "SHA-256", "content": hash}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def beside(name: str, version: str, terms: str) -> dict:
    reference = f"pkg:generic/{name}@{version}"
    return {"type": "library", "bom-ref": reference, "name": name, "version": version,
            "purl": reference, "licenses": [{"expression": terms}]}


def sbom(root: dict, packages: list[dict], needs: dict, given: argparse.Namespace) -> str:
    sums = checksums()
    listed = [component(package, sums) for package in packages]
    more = [beside(name, version, terms) for name, version, terms, *_ in given.part]
    by_id = {package["id"]: reference(package) for package in [root, *packages]}
    edges = [{"ref": by_id[id], "dependsOn": sorted({by_id[need] for need in wanted})}
             for id, wanted in needs.items()]
    edges = sorted(edges, key=lambda edge: edge["ref"])
    for edge in edges:
        if edge["ref"] == reference(root):
            edge["dependsOn"] += [part["bom-ref"] for part in more]
    when = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc)
    name = f"{reference(root)}?target={given.target}&built={when.isoformat()}"
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}",
        "version": 1,
        "metadata": {
            "timestamp": when.isoformat().replace("+00:00", "Z"),
            "component": component(root, sums) | {"type": "application"},
            "properties": [{"name": "target", "value": given.target}],
        },
        "components": listed + more,
        "dependencies": edges,
    }
    return json.dumps(bom, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["licences", "sbom"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--target", default=None)
    parser.add_argument("--part", nargs="+", action="append", default=[], metavar="WORD",
                        help="NAME VERSION TERMS FILE...")
    given = parser.parse_args()
    given.target = given.target or host()
    if short := [part for part in given.part if len(part) < 4]:
        sys.exit(f"components.py: NAME VERSION TERMS FILE..., not {short[0]}")
    root, packages, needs = components(metadata(given.target))
    if len(packages) < 100:
        sys.exit(f"components.py: only {len(packages)} packages, which cannot be all")
    if given.what == "licences":
        text = licences(packages, given)
    else:
        text = sbom(root, packages, needs, given)
    given.file.write_text(text)


if __name__ == "__main__":
    main()
