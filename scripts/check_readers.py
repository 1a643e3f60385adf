#!/usr/bin/env python3
"""Reads a predictions table with every reader that docs/tables.md names, each as that page says,
and checks that all see the same, whole rows.

    scripts/check_readers.py TABLE_FOLDER [--messages N --dead-letters M] [--spark PYTHON]...

DuckDB, Polars, pyarrow and pandas read in this process; each --spark is an interpreter that has
pyspark (`scripts/setup.sh readers` makes two: Spark 3.5 and 4). Every (topic, partition, offset)
must stand once, vector columns must have one length and finite values, boxes must lie in [0, 1],
times must lie where all readers take them, a range of times must give every reader the same rows,
and with --messages the rows must be messages - dead letters. Exit 0 if all of it holds.
"""

import argparse
import datetime
import json
import math
import subprocess
import sys


def fail(text):
    sys.exit(f"check_readers: {text}")


UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime.datetime(1900, 1, 1, tzinfo=UTC)
END = datetime.datetime(2262, 1, 1, tzinfo=UTC)
VECTORS = ("scores", "embedding")


def duckdb_sees(table):
    """What the table is, and the middle of its times, for the others to select by."""
    import duckdb

    sql = duckdb.connect()
    sql.execute("set timezone = 'UTC'")
    glob = f"{table}/**/*.parquet"
    sql.execute(f"create view p as select * from read_parquet('{glob}', hive_partitioning = false)")
    rows, distinct, tags = sql.execute(
        'select count(*), count(distinct (topic, "partition", "offset")), '
        "coalesce(sum(len(tags)), 0) from p"
    ).fetchone()
    if rows == 0:
        fail(f"{glob} holds no row")
    if rows != distinct:
        fail(f"DuckDB: {rows} rows, but only {distinct} different (topic, partition, offset)")
    lengths = sql.execute("select distinct len(scores), len(embedding) from p").fetchall()
    if len(lengths) != 1:
        fail(f"DuckDB: vectors of several lengths: {lengths}")
    width = lengths[0][1]
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
    micros = sql.execute(
        "select epoch_us(min(event_time)), epoch_us(max(event_time)), "
        "epoch_us(median(event_time)) from p"
    ).fetchone()
    first, last, since = (EPOCH + datetime.timedelta(microseconds=int(t)) for t in micros)
    if first < FIRST or last >= END:
        fail(f"times from {first} to {last}, but some readers take none outside {FIRST} to {END}")
    later = sql.execute("select count(*) from p where event_time >= ?", [since]).fetchone()[0]
    sums = sql.execute(
        "select sum(list_sum(scores)::double), sum(list_sum(embedding)::double) from p"
    ).fetchone()
    return {"rows": rows, "later": later, "sums": list(sums)}, since, (tags, *lengths[0])


def polars_sees(table, since):
    import numpy as np
    import polars as pl

    glob = f"{table}/**/*.parquet"
    frame = pl.read_parquet(glob, hive_partitioning=False)
    if frame.select("topic", "partition", "offset").n_unique() != frame.height:
        fail("Polars: a (topic, partition, offset) stands twice")
    later = pl.scan_parquet(glob).filter(pl.col("event_time") >= since).select(pl.len())
    flat = [np.asarray(frame[c].explode().to_numpy(), dtype=np.float64) for c in VECTORS]
    sums = [float(values.sum()) for values in flat]
    return {"rows": frame.height, "later": later.collect().item(), "sums": sums}


def pyarrow_sees(table, since):
    import numpy as np
    import pyarrow.dataset as ds

    dataset = ds.dataset(table, format="parquet")
    whole = dataset.to_table()
    whole.to_pylist()
    sums = []
    for name in VECTORS:
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in whole[name].chunks]
        flat = np.concatenate(chunks)
        if flat.size % whole.num_rows or not np.isfinite(flat).all():
            fail(f"pyarrow: column {name} is not whole: {flat.size} values")
        sums.append(float(flat.astype(np.float64).sum()))
    later = dataset.count_rows(filter=ds.field("event_time") >= since)
    return {"rows": whole.num_rows, "later": later, "sums": sums}


def pandas_sees(table, since):
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(table)
    frame["event_time"].astype("datetime64[ns, UTC]")
    later = len(pd.read_parquet(table, filters=[("event_time", ">=", since)]))
    sums = [float(np.stack(frame[c]).astype(np.float64).sum()) for c in VECTORS]
    return {"rows": len(frame), "later": later, "sums": sums}


def spark_sees(table, since):
    """Runs in an interpreter of its own."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    settings = {"spark.driver.memory": "1g", "spark.sql.session.timeZone": "UTC"}
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    frame = spark.read.option("recursiveFileLookup", "true").parquet(table)
    pandas = frame.toPandas()
    later = frame.where(f"event_time >= timestamp'{since:%Y-%m-%d %H:%M:%S.%f}'").count()
    folded = "sum(aggregate({0}, double(0), (a, x) -> a + x))"
    sums = frame.selectExpr(*(folded.format(c) for c in VECTORS)).collect()[0]
    seen = {"rows": len(pandas), "later": later, "sums": list(sums)}
    return spark.version, seen


def compare(name, seen, wanted):
    for key in ("rows", "later"):
        if seen[key] != wanted[key]:
            fail(f"{name} reads {seen[key]} {key}, DuckDB {wanted[key]}")
    for a, b in zip(seen["sums"], wanted["sums"]):
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-3):
            fail(f"vector sums differ: {name} {seen['sums']}, DuckDB {wanted['sums']}")


def check_chains(table):
    """The ranges in the footers form one chain for each partition and epoch, and rows lie
    inside, in order; says how many files there are."""
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    chains, files = {}, ds.dataset(table, format="parquet").files
    for path in files:
        file = pq.ParquetFile(path)
        metadata = {**(file.schema_arrow.metadata or {}), **(file.metadata.metadata or {})}
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
    return len(files)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table")
    parser.add_argument("--messages", type=int)
    parser.add_argument("--dead-letters", type=int, default=0)
    parser.add_argument("--spark", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--as-spark", metavar="TIME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_spark:
        since = datetime.datetime.fromisoformat(arguments.as_spark)
        print(json.dumps(spark_sees(arguments.table, since)))
        return

    wanted, since, (tags, classes, width) = duckdb_sees(arguments.table)
    expected = (arguments.messages or 0) - arguments.dead_letters
    if arguments.messages is not None and wanted["rows"] != expected:
        fail(
            f"{wanted['rows']} rows, but {arguments.messages} messages - "
            f"{arguments.dead_letters} dead letters"
        )
    readers = ["DuckDB"]
    for name, sees in (("Polars", polars_sees), ("pyarrow", pyarrow_sees), ("pandas", pandas_sees)):
        compare(name, sees(arguments.table, since), wanted)
        readers.append(name)
    for python in arguments.spark:
        command = [python, __file__, arguments.table, "--as-spark", since.isoformat()]
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode:
            fail(f"Spark of {python} reads nothing:\n{child.stderr[-3000:]}")
        version, seen = json.loads(child.stdout.splitlines()[-1])
        compare(f"Spark {version}", seen, wanted)
        readers.append(f"Spark {version}")
    files = check_chains(arguments.table)
    print(
        f"{wanted['rows']} rows in {files} files, {tags} tags, "
        f"{classes} scores and {width} embedding values a row: "
        f"{', '.join(readers)} agree, every (topic, partition, offset) once"
    )


if __name__ == "__main__":
    main()
