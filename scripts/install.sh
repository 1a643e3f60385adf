#!/usr/bin/env bash
# What a machine needs to run tagstream, from this repository to $PREFIX (default /usr/local).
#
#   scripts/install.sh             installs; target/release/tagstream must be built (`make install`
#                                  builds it), or $BINARY names another one
#   scripts/install.sh --remove    removes what was installed, and nothing else
#
#   bin/tagstream                          the program
#   lib/tagstream/libonnxruntime.so.*      found from there by the program
#   share/tagstream/configs/*.toml         every key with its default
#   share/tagstream/models/demo-clip/      for `tagstream demo`, `doctor` and `bench`
#
# $DESTDIR is put before $PREFIX, for packagers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
prefix=${DESTDIR:-}${PREFIX:-/usr/local}
die() { echo "install.sh: $*" >&2; exit 1; }

case ${1:-} in
--remove)
    rm -f "$prefix/bin/tagstream"
    rm -rf "$prefix/lib/tagstream" "$prefix/share/tagstream"
    echo "removed from $prefix: bin/tagstream, lib/tagstream, share/tagstream" >&2
    exit ;;
'') ;;
*) die "unknown argument $1" ;;
esac

binary=${BINARY:-${CARGO_TARGET_DIR:-target}/release/tagstream}
[ -x "$binary" ] || die "$binary is not there: run make build"
made=$prefix; while [ ! -e "$made" ]; do made=$(dirname "$made"); done
[ -w "$made" ] || die "$made cannot be written to: use sudo make install, or PREFIX=\$HOME/.local"
library=$(scripts/onnxruntime.sh | sed -n 's/^export ORT_DYLIB_PATH=//p')
[ -f "$library" ] || die "no ONNX Runtime: scripts/onnxruntime.sh said: $library"

install -D -m 755 "$binary" "$prefix/bin/tagstream"
install -D -m 644 -t "$prefix/lib/tagstream" "$(dirname "$library")"/*.so*
install -D -m 644 -t "$prefix/share/tagstream/configs" configs/*.toml
(cd models && find demo-clip -type f -exec \
    install -D -m 644 {} "$prefix/share/tagstream/models/{}" \;)
echo "installed in $prefix: bin/tagstream, lib/tagstream, share/tagstream" >&2
