#!/usr/bin/env bash
# What lies in dist/ on a clean Debian root that debootstrap makes: the archive where there is no
# Python, then the wheel where Python was added and nothing else. `tagstream demo` runs in both.
#
#   scripts/dist_test.sh      $SUITE (bookworm) is the release; $TAGSTREAM_DIST_IMAGES (2000) the
#                             pictures that are drawn, tagged and learnt from
#
# Needs root and debootstrap. pip in there reaches the registry that this machine's pip is set up
# for. The root is deleted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dist=${DIST:-dist} images=${TAGSTREAM_DIST_IMAGES:-2000} suite=${SUITE:-bookworm}
die() { echo "dist_test.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "chroot and mounts take root"
command -v debootstrap >/dev/null || die "debootstrap is missing (apt-get install debootstrap)"
(cd "$dist" && sha256sum --check --quiet SHA256SUMS) || die "$dist is not as it was packed"

work=$(mktemp -d) root=
clean_up() {
    for mounted in "$root/proc" "$root/dev"; do
        ! mountpoint -q "$mounted" || umount "$mounted"
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

make_root() {
    root=$work/root
    debootstrap --variant=minbase "$suite" "$root" >"$work/debootstrap.log" 2>&1 \
        || { tail -5 "$work/debootstrap.log" >&2; die "debootstrap failed"; }
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    useradd --root "$root" --create-home tester
    cp "$dist"/tagstream-* "$root/home/tester"
}

# As somebody without rights, in an environment of its own.
within() { # script
    local more=() name
    # How this machine's pip reaches its registry.
    for name in PIP_INDEX_URL PIP_DEFAULT_TIMEOUT https_proxy; do
        [ -z "${!name:-}" ] || more+=("$name=${!name}")
    done
    chroot --userspec=tester:tester "$root" /usr/bin/env -i HOME=/home/tester \
        PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "${more[@]}" \
        /bin/bash -euo pipefail -c "cd; $1"
}

timed() { # what, script
    local begun=$SECONDS
    within "$2"
    echo "== $1: $((SECONDS - begun)) s"
}

make_root
echo "== $suite, $(within 'ldd --version | head -1'), no Python"
within '! command -v python3'
timed "archive unpacked" 'tar -xzf tagstream-*.tar.gz && mv tagstream-*/ t'
timed "demo of $images pictures" "t/bin/tagstream demo --images $images --out bare"
within 'test -s bare/report.html && t/bin/tagstream --version; rm -rf t bare'

echo "== Python, and nothing else"
chroot "$root" /bin/bash -euc "apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install --no-install-recommends python3 python3-venv ca-certificates" \
    >"$work/apt.log" 2>&1 || { tail -5 "$work/apt.log" >&2; die "Python could not be installed"; }
# Authorities that this machine trusts beside Debian's.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
timed "wheel installed" 'python3 -m venv env && env/bin/pip install --quiet ./tagstream-*.whl'
timed "demo of $images pictures" "env/bin/tagstream demo --images $images --out wheel"
within 'test -s wheel/report.html && env/bin/tagstream --version'
