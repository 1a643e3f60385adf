#!/usr/bin/env python3
"""Lines of at most 100 columns: code and comments, and the prose of Markdown.

    scripts/widths.py --check             names file and line of whatever is wider, and fails
    scripts/widths.py --check .rs         the same for other kinds of file than the usual ones
    scripts/widths.py --wrap FILE.md ...  wraps the prose of these files in place

In Markdown tables, code blocks, headings and whatever has no space to break at (a link, a piece of
code in backquotes) are left as they are, and HTML comments, which nobody sees, have no width.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
# What is looked at unless a call names other kinds.
KINDS = [".md", ".py", ".rs", ".sh"]
# Written from Rust source, which has the lines' lengths.
GENERATED = {"docs/metrics.md"}

COMMENT = re.compile(r"<!--.*?-->", re.S)
# What stays in one piece: code in backquotes, comments, and everything else without a space.
PIECE = re.compile(r"(?:!\[[^]]*\]\([^)]*\)|`[^`]*`|<!--.*?-->|[^\s`<]|<(?!!--)|`)+", re.S)
# At the beginning of a line these would begin a list, a heading, a quotation or a table, or (a per
# cent sign) be away from their number.
MISREAD = re.compile(r"(?:[-+*>]|#+|\d+[.)])$|\||>|%")
ITEM = re.compile(r"(\s*)([-*+]|\d+[.)])(\s+)")


def seen(text: str) -> int:
    """The columns of a line as a reader sees it."""
    return len(COMMENT.sub("", text))


def pieces(text: str) -> list[str]:
    """The parts of a paragraph between which a line may end."""
    out: list[str] = []
    for piece in PIECE.findall(text):
        if out and MISREAD.match(piece):
            out[-1] += " " + piece
        else:
            out.append(" ".join(piece.split()))
    return out


def wrapped(first: str, rest: str, text: str) -> list[str]:
    """A paragraph as lines: `first` goes before the first one, `rest` before the others."""
    lines, line = [], first
    for number, piece in enumerate(pieces(text)):
        between = "" if number == 0 or line in (first, rest) else " "
        if between and seen(line + between + piece) > WIDTH:
            lines.append(line)
            line, between = rest, ""
        line += between + piece
    return [*lines, line]


def blocks(text: str):
    """(line number, lines, is prose) of each paragraph, and of everything else line by line."""
    fence, paragraph, began, in_list = None, [], 0, False
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        opens = re.match(r"(`{3,}|~{3,})", bare)
        code = fence is not None or opens or (line.startswith("    ") and not in_list)
        item = ITEM.match(line)
        other = (
            code
            or not bare
            or bare.startswith(("|", "#", "<!--", "[^"))
            or bare == "---"
            or (bare.startswith("<") and bare.endswith(">"))
        )
        if bare.startswith("<!-- figure") and not code:
            other = False
        if paragraph and (other or item):
            yield began, paragraph, True
            paragraph = []
        if fence is not None:
            fence = None if bare.startswith(fence) and bare.strip("`~") == "" else fence
        elif opens:
            fence = opens[1]
        if other:
            yield number, [line], False
            # An indented line after a list belongs to it.
            in_list = in_list and (not bare or line.startswith(" "))
        else:
            began = began if paragraph else number
            paragraph.append(line)
            in_list = bool(item) or (in_list and line.startswith(" "))
    if paragraph:
        yield began, paragraph, True


def rewrapped(lines: list[str]) -> list[str]:
    item = ITEM.match(lines[0])
    if item:
        first, rest = item[0], " " * len(item[0])
        body = [lines[0][len(first) :], *lines[1:]]
    else:
        first = rest = re.match(r"\s*", lines[0])[0]
        body = lines
    return wrapped(first, rest, " ".join(line.strip() for line in body))


def wrap(path: Path) -> None:
    out: list[str] = []
    for _, lines, prose in blocks(path.read_text()):
        out += rewrapped(lines) if prose else lines
    path.write_text("\n".join(out))


def wide_in_markdown(text: str):
    for began, lines, prose in blocks(text):
        for number, line in enumerate(lines, began):
            # Without a place to break before the bound nothing can be done about it.
            breakable = len(pieces(line)) > (2 if ITEM.match(line) else 1)
            if prose and seen(line) > WIDTH and breakable:
                yield number, seen(line)


def wide_in_code(text: str):
    for number, line in enumerate(text.split("\n"), 1):
        # Rows of tables in Rust's doc comments, which are Markdown.
        table = re.match(r"\s*//[/!] \|", line)
        if len(line) > WIDTH and not table:
            yield number, len(line)


def check(kinds: list[str]) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    found = 0
    for name in sorted(set(listed)):
        path = ROOT / name
        if path.suffix not in kinds or name in GENERATED or not path.is_file():
            continue
        look = wide_in_markdown if path.suffix == ".md" else wide_in_code
        for number, width in look(path.read_text()):
            print(f"{name}:{number}: {width} columns, {WIDTH} at most", file=sys.stderr)
            found += 1
    return found


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--check"]:
        sys.exit(1 if check(arguments[1:] or KINDS) else 0)
    if arguments[:1] == ["--wrap"] and len(arguments) > 1:
        for name in arguments[1:]:
            wrap(Path(name))
        return
    sys.exit(__doc__)


if __name__ == "__main__":
    main()
