# Sourced by the scripts of this folder: the program, a folder for work, and what every row begins
# with. ROWS is the file that rows are added to.
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
columns=time,host,commit,set,split,method,variant,overrides,known,mask_seed,
columns+=map_plain,map_envelope,cf1,of1,ece,train_seconds,
# Of the tags that are emitted; empty in rows of before they were written down.
columns+=tags_right,tags_found,tags_f1,tags_per_image
[ -s "$ROWS" ] || echo "$columns" > "$ROWS"
