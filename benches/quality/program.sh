# Sourced by the scripts of this folder: the program, a folder for work, and what every row says of
# machine and build. ROWS is the file that rows are added to.
tagstream=${TAGSTREAM:-}
if [ -z "$tagstream" ]; then
  cargo build --release --bin tagstream
  tagstream=${CARGO_TARGET_DIR:-target}/release/tagstream
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
host="$(nproc) x $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1 | tr ',' ' ')"
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo +)
mkdir -p "$(dirname "$ROWS")"
