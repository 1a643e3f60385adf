# Sourced by the scripts of this folder whose rows are CSV: program.sh, and the header of ROWS.
. benches/quality/program.sh
columns=time,host,commit,set,split,method,variant,overrides,known,mask_seed,
columns+=map_plain,map_envelope,cf1,of1,ece,train_seconds,
# Of the tags that are emitted; empty in rows of before they were written down.
columns+=tags_right,tags_found,tags_f1,tags_per_image
[ -s "$ROWS" ] || echo "$columns" > "$ROWS"
