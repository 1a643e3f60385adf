#!/usr/bin/env bash
# The Helm chart in deploy/helm/tagstream, the plain manifests that are made from it, and the units.
#
#   scripts/chart.sh helm      build Helm if it is not there, print where it is
#   scripts/chart.sh render    write deploy/kubernetes from the chart's defaults
#   scripts/chart.sh check     helm lint, every values file in the chart's ci/ rendered and read as
#                              the API server reads it, deploy/kubernetes is fresh, values that make
#                              no sense are refused
#
# Helm and the reader of manifests are built from the Go modules pinned in scripts/kubernetes/go.mod
# (checked against go.sum) and kept in the cache folder ($TAGSTREAM_CACHE, default
# ~/.cache/tagstream).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
source=scripts/kubernetes chart=deploy/helm/tagstream
die() { echo "chart.sh: $*" >&2; exit 1; }

sum=$(cat $source/go.mod $source/go.sum $source/main.go | sha256sum | cut -c1-16)
tools=$cache/kubernetes-$sum
build_tools() {
    [ ! -f "$tools/.complete" ] || return 0
    command -v go >/dev/null || die "Go is missing: scripts/setup.sh test tells how"
    echo "chart.sh: building Helm and the reader of manifests (once)" >&2
    mkdir -p "$tools"
    (cd $source && export GOFLAGS=-mod=readonly GOTOOLCHAIN=local \
        && go build -trimpath -o "$tools/helm" helm.sh/helm/v3/cmd/helm \
        && go build -trimpath -o "$tools/manifests" .) || die "they could not be built"
    touch "$tools/.complete"
}

# Nothing of the user's own Helm.
helm() {
    HELM_CACHE_HOME=$tools/none HELM_CONFIG_HOME=$tools/none HELM_DATA_HOME=$tools/none \
        "$tools/helm" "$@"
}
# The newest API that the chart knows of is not asked for: the oldest that it says it works on.
template() { helm template tagstream $chart --namespace tagstream --kube-version 1.27.0 "$@"; }

render() { # folder
    local head="# Made from deploy/helm/tagstream by scripts/chart.sh render."
    mkdir -p "$1"
    template | python3 -c '
import pathlib, re, sys
folder, head = pathlib.Path(sys.argv[1]), sys.argv[2]
files = {}
for document in re.split(r"(?m)^---\n", sys.stdin.read()):
    source = re.search(r"(?m)^# Source: tagstream/templates/(\S+)\n", document)
    if source:
        text = document.replace(source[0], "").strip("\n")
        # Without Helm there is no Helm.
        text = re.sub(r"(?m)^ *helm\.sh/chart: .*\n", "", text)
        text = text.replace("managed-by: Helm", "managed-by: kubectl")
        files.setdefault(source[1], []).append(text)
for name, texts in files.items():
    (folder / name).write_text(head + "\n" + "\n---\n".join(texts) + "\n")
' "$1" "$head"
}

check() {
    local made values; made=$(mktemp -d); trap "rm -rf '$made'" EXIT
    echo "helm lint"
    helm lint --strict --quiet $chart
    for values in $chart/ci/*.yaml; do
        helm lint --strict --quiet $chart --values "$values"
        template --values "$values" >"$made/$(basename "$values")"
    done
    template >"$made/defaults.yaml"
    "$tools/manifests" "$made"/*.yaml
    render "$made/plain"
    "$tools/manifests" "$made"/plain/*.yaml
    diff -r deploy/kubernetes "$made/plain" \
        || die "deploy/kubernetes is not what the chart makes: scripts/chart.sh render"
    local wrong scaling=stage.autoscaling
    for wrong in $scaling.enabled=true stage.replcas=2 config.output.url= \
        $scaling.enabled=true,$scaling.partitions=2,$scaling.minReplicas=3; do
        if template --set "$wrong" >"$made/wrong" 2>&1; then die "$wrong is not refused"; fi
    done
    # What reads manifests must be able to say no.
    sed 's/ readinessProbe:/ readynessProbe:/' "$made/defaults.yaml" >"$made/wrong.yaml"
    if "$tools/manifests" "$made/wrong.yaml" >/dev/null 2>&1; then
        die "a field that does not exist is not found"
    fi
}

# What this machine has not installed is no flaw of a unit.
check_units() {
    command -v systemd-analyze >/dev/null || { echo "units: NOT CHECKED (no systemd)"; return 0; }
    local said
    said=$(systemd-analyze verify deploy/systemd/* 2>&1 \
        | grep -Ev "is not executable: No such file|Command 'man .*failed" || true)
    [ -z "$said" ] || die "$said"
    echo "systemd takes the units"
}

build_tools
case ${1:-} in
helm) echo "$tools/helm" ;;
render)
    rm -rf deploy/kubernetes
    render deploy/kubernetes ;;
check) check_units; check ;;
*) die "helm, render or check" ;;
esac
