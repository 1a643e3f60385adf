#!/usr/bin/env python3
"""Reads one predictions table with DuckDB, Polars and pyarrow and checks that all three see the
same, whole rows.

    scripts/check_readers.py TABLE_FOLDER [--messages N --dead-letters M]

Every (topic, partition, offset) must stand once, vector columns must have one length and finite
values, boxes must lie in [0, 1], and with --messages the rows must be messages - dead letters. Exit
0 if all of it holds.
"""

import argparse
import math
import sys

import duckdb
import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def fail(text):
    sys.exit(f"check_readers: {text}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table")
    parser.add_argument("--messages", type=int)
    parser.add_argument("--dead-letters", type=int, default=0)
    arguments = parser.parse_args()
    glob = f"{arguments.table}/**/*.parquet"

    # DuckDB: SQL over the glob.
    sql = duckdb.connect()
    sql.execute(f"create view p as select * from read_parquet('{glob}', hive_partitioning = false)")
    rows, distinct, tags = sql.execute(
        'select count(*), count(distinct (topic, "partition", "offset")), '
        "coalesce(sum(len(tags)), 0) from p"
    ).fetchone()
    if rows == 0:
        fail(f"{glob} holds no row")
    if rows != distinct:
        fail(f"DuckDB: {rows} rows, but only {distinct} different (topic, partition, offset)")
    if arguments.messages is not None and rows != arguments.messages - arguments.dead_letters:
        fail(
            f"{rows} rows, but {arguments.messages} messages - "
            f"{arguments.dead_letters} dead letters"
        )
    lengths = sql.execute("select distinct len(scores), len(embedding) from p").fetchall()
    if len(lengths) != 1:
        fail(f"DuckDB: vectors of several lengths: {lengths}")
    classes, width = lengths[0]
    bad = sql.execute(
        "select count(*) from p, unnest(tags) as t(tag) where tag.box.x < 0 or tag.box.y < 0 "
        "or tag.box.x + tag.box.w > 1.00001 or tag.box.y + tag.box.h > 1.00001 "
        "or tag.score < 0 or tag.score > 1"
    ).fetchone()[0]
    if bad:
        fail(f"DuckDB: {bad} tags with a box or score outside [0, 1]")
    near = sql.execute(
        f"select array_cosine_similarity(embedding::float[{width}], embedding::float[{width}]) "
        "from p limit 1"
    ).fetchone()[0]
    if abs(near - 1) > 1e-5:
        fail(f"DuckDB: an embedding's cosine with itself is {near}")
    checksum_duckdb = sql.execute(
        "select sum(list_sum(scores)::double), sum(list_sum(embedding)::double) from p"
    ).fetchone()

    # Polars.
    frame = pl.read_parquet(glob, hive_partitioning=False)
    if frame.height != rows:
        fail(f"Polars reads {frame.height} rows, DuckDB {rows}")
    if frame.select("topic", "partition", "offset").n_unique() != rows:
        fail("Polars: a (topic, partition, offset) stands twice")
    checksum_polars = tuple(
        float(np.asarray(frame[c].explode().to_numpy(), dtype=np.float64).sum())
        for c in ("scores", "embedding")
    )

    # pyarrow.
    table = ds.dataset(arguments.table, format="parquet", exclude_invalid_files=True).to_table()
    if table.num_rows != rows:
        fail(f"pyarrow reads {table.num_rows} rows, DuckDB {rows}")
    checksum_arrow = []
    for name, length in (("scores", classes), ("embedding", width)):
        flat = np.concatenate(
            [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
        )
        if flat.size != rows * length or not np.isfinite(flat).all():
            fail(
                f"pyarrow: column {name} is not whole ({flat.size} values, "
                f"{rows} x {length} expected)"
            )
        checksum_arrow.append(float(flat.astype(np.float64).sum()))

    for name, other in (("Polars", checksum_polars), ("pyarrow", checksum_arrow)):
        for a, b in zip(checksum_duckdb, other):
            if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-3):
                fail(f"vector sums differ: DuckDB {checksum_duckdb}, {name} {other}")

    files = table_files(arguments.table)
    check_chains(files)
    print(
        f"{rows} rows in {len(files)} files, {tags} tags, "
        f"{classes} scores and {width} embedding values a row: "
        "DuckDB, Polars and pyarrow agree, every (topic, partition, offset) once"
    )


def table_files(folder):
    dataset = ds.dataset(folder, format="parquet", exclude_invalid_files=True)
    return list(dataset.files)


def check_chains(files):
    """The ranges in the footers form one chain for each partition and epoch, and rows lie
    inside, in order."""
    import json

    chains = {}
    for path in files:
        file = pq.ParquetFile(path)
        metadata = file.schema_arrow.metadata or {}
        metadata = {**metadata, **(file.metadata.metadata or {})}
        start, end = (json.loads(metadata[b"tagstream.range"])[k] for k in ("start", "end"))
        offsets = file.read(columns=["offset"])["offset"].to_pylist()
        if offsets != sorted(set(offsets)) or (
            offsets and not (start <= offsets[0] and offsets[-1] < end)
        ):
            fail(f"{path}: rows out of order or outside [{start}, {end})")
        folder, name = path.rsplit("/", 1)
        chains.setdefault((folder, name.split("-")[0]), []).append((start, end))
    for (folder, epoch), ranges in chains.items():
        ranges.sort()
        for (_, end), (start, _) in zip(ranges, ranges[1:]):
            if end != start:
                fail(f"{folder} epoch {epoch}: a file ends at {end}, the next starts at {start}")


if __name__ == "__main__":
    main()
