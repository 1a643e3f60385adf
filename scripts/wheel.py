#!/usr/bin/env python3
"""A Python wheel that carries the program; ONNX Runtime is its ordinary dependency.

scripts/wheel.py FOLDER OUT    FOLDER is what scripts/dist.sh installed: bin/, share/; prints the
                               wheel's path. Needs nothing but Python, and objdump for the tag

The same folder gives the same bytes: times are those of the commit ($SOURCE_DATE_EPOCH).
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the program is tested with (scripts/onnxruntime.sh); its interface only grows.
ONNXRUNTIME = "onnxruntime>={},<2"

LAUNCHER = '''"""tagstream: a streaming stage that tags images.

The program is beside this file. It is started with the ONNX Runtime that this interpreter has.
"""

import importlib.util
import os
import sys
from pathlib import Path


def _library():
    """ONNX Runtime's library in its package, which is not imported: that takes half a second."""
    package = importlib.util.find_spec("onnxruntime")
    for folder in (package and package.submodule_search_locations) or []:
        for library in sorted(Path(folder, "capi").glob("libonnxruntime.so.*")):
            return str(library)
    return None


def main():
    """Becomes the program."""
    program = str(Path(__file__).parent / "bin" / "tagstream")
    environment = dict(os.environ)
    library = _library()
    if library and not environment.get("ORT_DYLIB_PATH"):
        environment["ORT_DYLIB_PATH"] = library
    os.execve(program, [program, *sys.argv[1:]], environment)
'''


def version() -> str:
    return re.search(r'(?m)^version = "(.*)"', (ROOT / "Cargo.toml").read_text())[1]


def onnxruntime() -> str:
    script = (ROOT / "scripts/onnxruntime.sh").read_text()
    return re.search(r"(?m)^version=(\S+)", script)[1]


def platform_tag(program: Path) -> str:
    """manylinux of the newest glibc symbol that the program asks for."""
    told = subprocess.run(["objdump", "-T", program], capture_output=True, text=True, check=True)
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", told.stdout)}
    machine = re.search(r"file format elf64-(\S+)", told.stdout)[1].replace("-", "_")
    machine = {"x86_64": "x86_64", "littleaarch64": "aarch64"}[machine]
    major, minor = max(versions)[:2]
    return f"manylinux_{major}_{minor}_{machine}"


def metadata() -> str:
    readme = (ROOT / "README.md").read_text()
    return "\n".join([
        "Metadata-Version: 2.1",
        "Name: tagstream",
        f"Version: {version()}",
        "Summary: Tags image streams: Kafka in, text-region matching on a frozen CLIP, exactly-once"
        " Parquet out, retrained from partial labels",
        "License: Apache-2.0",
        "Requires-Python: >=3.11",  # ONNX Runtime's
        f"Requires-Dist: {ONNXRUNTIME.format(onnxruntime())}",
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Programming Language :: Rust",
        "Description-Content-Type: text/markdown",
        "",
        readme,
    ])


def contents(folder: Path, tag: str) -> dict[str, tuple[bytes, int]]:
    """Names, contents and modes of all files but RECORD."""
    info = f"tagstream-{version()}.dist-info"
    files = {
        "tagstream/__init__.py": (LAUNCHER.encode(), 0o644),
        "tagstream/__main__.py": (b"from tagstream import main\n\nmain()\n", 0o644),
        f"{info}/METADATA": (metadata().encode(), 0o644),
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: scripts/wheel.py\nRoot-Is-Purelib: false\n"
            f"Tag: py3-none-{tag}\n".encode(), 0o644),
        f"{info}/entry_points.txt": (b"[console_scripts]\ntagstream = tagstream:main\n", 0o644),
    }
    for name in ("LICENSE", "THIRD-PARTY.txt"):
        text = (folder / "share/doc/tagstream" / name).read_bytes()
        files[f"{info}/licenses/{name}"] = (text, 0o644)
    for below in ("bin", "share/tagstream"):
        for file in sorted((folder / below).rglob("*")):
            if file.is_file():
                mode = 0o755 if os.access(file, os.X_OK) else 0o644
                files[f"tagstream/{file.relative_to(folder)}"] = (file.read_bytes(), mode)
    return files


def record(files: dict[str, tuple[bytes, int]], name: str) -> bytes:
    def digest(content: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    lines = [f"{file},sha256={digest(content)},{len(content)}"
             for file, (content, _) in files.items()]
    return "\n".join([*lines, f"{name},,", ""]).encode()


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    tag = platform_tag(folder / "bin/tagstream")
    files = contents(folder, tag)
    name = f"tagstream-{version()}.dist-info/RECORD"
    files[name] = (record(files, name), 0o644)
    wheel = out / f"tagstream-{version()}-py3-none-{tag}.whl"
    when = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800))[:6]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file, (content, mode) in files.items():
            entry = zipfile.ZipInfo(file, when)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    print(wheel)


if __name__ == "__main__":
    main()
