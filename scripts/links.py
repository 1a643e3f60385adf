#!/usr/bin/env python3
"""Every local link and every file that a document names exists.

    scripts/links.py     fails and names file and line of each that does not

Looked at are the Markdown files: the targets of links with their headings, and names in backquotes
that have the form of a file or of a module (`stage::ledger`, `model::head`: also those of the
crates) of this repository; the journal is left out of the latter, for it tells of code as it was.
In code, names of documents and of source files are looked at. Every document below docs/ must be
linked from another one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!`)\[[^]]*\]\(([^)\s]+)\)", re.S)
QUOTED = re.compile(r"`([^`\n]+)`")
DOCUMENT = re.compile(r"(?<![\w./-])(docs/[\w./-]+\.md)")
# A source file that a comment names from the root on.
SOURCE = re.compile(
    r"(?<![\w./-])((?:src|crates|tests|scripts|benches|examples|fuzz)/[\w./-]+\.(?:rs|py|sh))"
)
# A name alone, without a folder, that must be a file's somewhere.
ALONE = re.compile(r"[\w-]+\.(?:rs|py|sh)")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
MODULE = re.compile(r"[a-z_]+(?:::[a-z_]+)+")
JOURNAL = "docs/performance/journal/"
CODE = {".rs", ".py", ".sh", ".toml"}


def tracked() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(names.split("\n")) if name and (ROOT / name).is_file())


def without_code(text: str) -> str:
    """The text with its code blocks empty, line for line."""
    blank = lambda block: "\n" * block[0].count("\n")  # noqa: E731
    return re.sub(r"^( *)(`{3,}|~{3,}).*?^ *\2[`~]*$", blank, text, flags=re.S | re.M)


def anchors(text: str) -> set[str]:
    """The headings of a document as a link names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", without_code(text), re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        number = next(n for n in range(1000) if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{number}" if number else name)
    return found


def missing_link(document: Path, target: str) -> str | None:
    """What is wrong with a link, if anything is."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    file = (document.parent / path).resolve() if path else document
    if not file.exists():
        return f"links to {path}, which does not exist"
    if anchor and anchor not in anchors(file.read_text()):
        return f"links to {target}, which has no such heading"
    return None


def missing_name(name: str, folders: set[str], names: set[str]) -> bool:
    """Whether this has the form of a file or folder of ours and is none."""
    if ALONE.fullmatch(name):
        return name not in names
    if not PATH.fullmatch(name) or "/" not in name or "..." in name:
        return False
    return name.split("/")[0] in folders and not (ROOT / name).exists()


def missing_module(name: str, modules: set[str]) -> bool:
    """Whether this has the form of a module and is none; names of tests are another check's."""
    if not MODULE.fullmatch(name) or "tests" in name.split("::"):
        return False
    return not any(module.endswith("/" + name.replace("::", "/")) for module in modules)


def modules_of(files: list[str]) -> set[str]:
    """The modules as paths; those of a crate begin with its folder's name: `/model/head`."""
    found = {
        "/" + re.sub(r"^crates/([^/]+)/src/", r"\1/", name.removesuffix(".rs").removesuffix("/mod"))
        for name in files
        if name.endswith(".rs")
    }
    return found | {module.rsplit("/", 1)[0] for module in found}


def main() -> None:
    files = tracked()
    folders = {name.split("/")[0] for name in files if "/" in name}
    names = {name.rsplit("/", 1)[-1] for name in files}
    modules = modules_of(files)
    wrong, linked = [], set()

    def say(name: str, text: str, at: int, what: str) -> None:
        wrong.append(f"{name}:{text.count(chr(10), 0, at) + 1}: {what}")

    for name in files:
        path = ROOT / name
        if path.suffix in CODE:
            text = path.read_text()
            for said in [*DOCUMENT.finditer(text), *SOURCE.finditer(text)]:
                if not any((start / said[1]).exists() for start in (ROOT, path.parent)):
                    say(name, text, said.start(), f"names {said[1]}, which does not exist")
        if path.suffix != ".md":
            continue
        text = without_code(path.read_text())
        for link in LINK.finditer(text):
            problem = missing_link(path, link[1])
            if problem:
                say(name, text, link.start(), problem)
            elif ":" not in link[1]:
                target = (path.parent / link[1].partition("#")[0]).resolve()
                if target != path:
                    linked.add(target)
        for quoted in [*QUOTED.finditer(text), *DOCUMENT.finditer(text)]:
            if missing_name(quoted[1], folders, names):
                say(name, text, quoted.start(), f"names {quoted[1]}, which does not exist")
            elif not name.startswith(JOURNAL) and missing_module(quoted[1], modules):
                say(name, text, quoted.start(), f"names the module {quoted[1]}, which is not there")
    for name in files:
        if name.startswith("docs/") and name.endswith(".md") and ROOT / name not in linked:
            wrong.append(f"{name}:1: no other document links to it")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
