#!/usr/bin/env python3
"""One form of imports and one home for unit tests, in all Rust files.

    scripts/imports.py     fails and names file and line of what is otherwise

Imports: one `use` for one module (`use a::b::{C, d};`: no path and no brace inside the braces), and
all of a file's or an inline module's in one block without blank lines; what is handed on (`pub
use`) may stand apart. `use super::*` is for tests.

Unit tests: `mod tests` at the end of a file, or `tests.rs` (with children: `tests/`) in the
module's folder. Another module below `#[cfg(test)]`, and a `#[path]`, need a line in this file.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USE = re.compile(r"(pub(?:\([^)]*\))? )?use ([^;]+);", re.S)
TEST_MODULE = re.compile(
    r"^( *)#\[cfg\(test\)\]\n(?: *#\[.*\]\n)*\1(?:pub(?:\([^)]*\))? )?mod (\w+)( \{|;)", re.M
)
PATH = re.compile(r'^ *#\[path = "([^"]+)"\]', re.M)
PATHS = {
    # Model checkers, compiled with the rules that the chaos checker asks, too.
    "src/stage/sink/chain_model.rs": "tests/common/invariants.rs",
    "src/stage/sink/epoch_model/model.rs": "tests/common/invariants.rs",
    "tests/chaos/checker.rs": "tests/common/invariants.rs",
    # Each folder of integration tests is a crate of its own.
    "tests/e2e/main.rs": "tests/common/mod.rs",
    "tests/suite/main.rs": "tests/common/mod.rs",
    # What the fuzzers run, and the examples, run by the tests.
    "tests/suite/fuzz_replay.rs": "fuzz/bodies/mod.rs",
    "tests/e2e/examples.rs": "examples/",
    # The functions of the build script, tested.
    "tests/suite/build_name.rs": "build.rs",
}
# Modules below `#[cfg(test)]` that are no tests: helpers of several rooms, models of the chain.
HELPERS = {"testing", "chain_model", "epoch_model", "floor_model"}
# Files that are tests as a whole.
TESTS = re.compile(r"(?:^|/)tests(?:/|\.rs$)")


def sources() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(names.split()) if (ROOT / name).is_file())


def without_strings(text: str) -> str:
    """The text with its comments and raw strings empty, line for line."""
    blank = lambda found: re.sub(r"[^\n]", "", found[0])  # noqa: E731
    text = re.sub(r'(?<!\w)r(#+)".*?"\1', blank, text, flags=re.S)
    return re.sub(r"//.*$", blank, text, flags=re.M)


def wrong_tree(tree: str, in_tests: bool) -> str | None:
    """What is wrong with one import, if anything is."""
    inside = tree.partition("{")[2]
    if "{" in inside:
        return "braces inside the braces of a `use`"
    if "::" in inside:
        return "a `use` of two modules: give each its own"
    if tree == "super::*" and not in_tests:
        return "`use super::*` outside tests: name what is used"
    return None


def statements(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Line number, indent and text; a `use` of several lines is one, an empty line has none."""
    number = 0
    while number < len(lines):
        line, first = lines[number], number
        if re.match(r" *(?:pub(?:\([^)]*\))? )?use ", line):
            while ";" not in line and number + 1 < len(lines):
                number += 1
                line += " " + lines[number].strip()
        yield first + 1, len(line) - len(line.lstrip()), line.strip()
        number += 1


def wrong_imports(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Line and words for every import that is otherwise."""
    # Of each indent: whether imports may follow, follow, follow after an empty line, or are over.
    block: dict[int, str] = {}
    tests_from = None
    original = text.split("\n")
    for number, indent, line in statements(without_strings(text).split("\n")):
        if not line:
            # A line with nothing but a comment is not an empty one.
            if not original[number - 1].strip():
                block = {k: "gap" if v == "open" else v for k, v in block.items()}
            continue
        block = {k: v for k, v in block.items() if k <= indent}
        if re.match(r"(?:pub(?:\([^)]*\))? )?mod \w*test\w* \{", line):
            tests_from = number
        found = USE.fullmatch(line)
        if found:
            in_tests = tests_from is not None or TESTS.search(name) is not None
            if problem := wrong_tree(found[2], in_tests):
                yield number, problem
        if found and found[1] and block.get(indent) == "open":
            continue
        if found and not found[1]:
            state = block.get(indent)
            if state == "over":
                yield number, "an import apart from the others: all stand in one block"
            elif state == "gap":
                yield number, "an empty line between imports"
            block[indent] = "open"
        elif not line.startswith("#") and indent in block:
            block[indent] = "over"


def wrong_tests(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Line and words for every unit test that lives elsewhere, and every `#[path]` unnamed."""
    for found in PATH.finditer(text):
        target = (ROOT / name).parent / found[1]
        allowed = PATHS.get(name) or ("fuzz/bodies" if name.startswith("fuzz/") else "-")
        if not str(target.resolve().relative_to(ROOT)).startswith(allowed):
            yield text.count("\n", 0, found.start()) + 1, f"`#[path]` to {found[1]}: not needed"
    for found in TEST_MODULE.finditer(text):
        number = text.count("\n", 0, found.start()) + 1
        _, module, form = found.groups()
        if module in HELPERS:
            continue
        if module != "tests":
            yield number, f"tests in `mod {module}`: their home is `mod tests`"
        elif form == " {" and text[text.index("\n}\n", found.end()) + 3 :].strip():
            yield number, "`mod tests` is not the end of the file"
    if re.search(r"_tests?\.rs$", name):
        yield 1, "a file of tests by another name: its home is tests.rs, or tests/, in the module"


def main() -> None:
    wrong = []
    for name in sources():
        text = (ROOT / name).read_text()
        for check in (wrong_imports, wrong_tests):
            wrong += [f"{name}:{line}: {what}" for line, what in check(name, text)]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
