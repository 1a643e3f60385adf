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
#   share/man/man1/tagstream*.1            manual pages
#   share/bash-completion/, share/zsh/, share/fish/   completion, where these shells look for it
#
# $DESTDIR is put before $PREFIX, for packagers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
prefix=${DESTDIR:-}${PREFIX:-/usr/local}
bash=share/bash-completion/completions/tagstream
zsh=share/zsh/site-functions/_tagstream
fish=share/fish/vendor_completions.d/tagstream.fish
die() { echo "install.sh: $*" >&2; exit 1; }

# Sets `as` to what a change below $prefix needs, and says so: nothing, or sudo.
as=
ask_for_root() {
    local made=$prefix answer
    while [ ! -e "$made" ]; do made=$(dirname "$made"); done
    [ ! -w "$made" ] || return 0
    command -v sudo >/dev/null || die "$made cannot be written to; try PREFIX=\$HOME/.local"
    echo "install.sh: $made cannot be written to without sudo (PREFIX=\$HOME/.local needs none)" >&2
    if [ "${TAGSTREAM_SETUP:-}" != yes ] && [ -t 0 ]; then
        read -r -p "install.sh: go on with sudo? [y/N] " answer
        [[ $answer == [yY]* ]] || die "nothing changed"
    fi
    as=sudo
}

case ${1:-} in
--remove)
    ask_for_root
    $as rm -f "$prefix/bin/tagstream"
    $as rm -rf "$prefix/lib/tagstream" "$prefix/share/tagstream"
    $as rm -f "$prefix"/share/man/man1/tagstream{,-*}.1 "$prefix/$bash" "$prefix/$zsh" \
        "$prefix/$fish"
    echo "removed from $prefix: bin/tagstream, lib/tagstream, share/tagstream, pages of the" \
        "manual, completions" >&2
    exit ;;
'') ;;
*) die "unknown argument $1" ;;
esac

binary=${BINARY:-${CARGO_TARGET_DIR:-target}/release/tagstream}
[ -x "$binary" ] || die "$binary is not there: run make build"
library=$(scripts/onnxruntime.sh | sed -n 's/^export ORT_DYLIB_PATH=//p')
[ -f "$library" ] || die "no ONNX Runtime: scripts/onnxruntime.sh said: $library"

ask_for_root
$as install -D -m 755 "$binary" "$prefix/bin/tagstream"
$as install -D -m 644 -t "$prefix/lib/tagstream" "$(dirname "$library")"/*.so*
$as install -D -m 644 -t "$prefix/share/tagstream/configs" configs/*.toml
(cd models && find demo-clip -type f -exec \
    $as install -D -m 644 {} "$prefix/share/tagstream/models/{}" \;)
made=$(mktemp -d); trap 'rm -rf "$made"' EXIT
"$binary" man "$made/man" 2>/dev/null
$as install -D -m 644 -t "$prefix/share/man/man1" "$made"/man/*.1
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$made/$shell"
    $as install -D -m 644 "$made/$shell" "$prefix/${!shell}"
done
echo "installed in $prefix: bin/tagstream, lib/tagstream, share/tagstream, pages of the manual," \
    "completions" >&2
