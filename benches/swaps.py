#!/usr/bin/env python3
"""Models swapped under full load: what a swap costs in throughput, memory and time, and whether a
message notices.

    benches/swaps.sh [head|categories|encoder ...]

Runs the release stage on the embedded broker with more references than it can take, and moves the
registry's pointer SWAPS times between two versions. `head`: two heads on one encoder, as
retrainings leave them; `categories`: the second version has a category more, so files end at every
swap; `encoder`: the second version has another encoder, so everything is loaded anew. The demo
model serves, drawn scenes are tagged. Everything is read from what the stage leaves: rows a second
and who made them from `processed_time` and `model_version` in the Parquet files, batches from its
log, memory from /proc. Appends to --log: a line a second, a line a swap, a summary. Ends with a
line `lost=0 doubled=0 misordered=0`, and with 1 if that is not so or a target is missed.
"""

import argparse, collections, datetime, json, os, pathlib, re, shutil, statistics, subprocess
import sys, tempfile, threading, time, urllib.request

import pyarrow.parquet

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTITIONS = 4
CONFIG = """
[kafka]
brokers = "{brokers}"
group_id = "swaps"
[source]
images_topic = "images"
[fetch]
allow_schemes = ["file"]
allow_path_prefixes = ["{folder}"]
[model]
path = "{folder}/registry"
watch_interval_ms = 100
[output]
url = "{folder}/tables"
predictions_topic = "predictions"
dead_letter_topic = "dead-letters"
max_file_age_ms = 3000
[memory]
budget_mib = 256
[http]
bind = "127.0.0.1:{port}"
[log]
format = "json"
filter = "warn,tagstream::stage::infer=debug"
"""


# A batch as the stage's log has it: when it ended, and what it took by the clock and of its
# worker's processor time.
Batch = collections.namedtuple(
    "Batch", "ended model worker images seconds processor_seconds page_faults"
)


def shares(factors):
    """What is said of a list of batches' times over the median."""
    factors = sorted(factors)
    return {
        "median": round(statistics.median(factors), 2),
        "p99": round(factors[int(0.99 * len(factors))], 2),
        "largest": round(factors[-1], 2),
        "above_2": sum(f > 2 for f in factors),
        "share_above_2": round(sum(f > 2 for f in factors) / len(factors), 4),
        "batches": len(factors),
    }


class Bench:
    def __init__(self, options, case, folder):
        self.options, self.case, self.folder = options, case, folder
        self.binary = str(pathlib.Path(options.binary).resolve())
        self.sent, self.memory, self.over = 0, [], threading.Event()
        self.stage = self.broker = None
        self.environment = dict(os.environ, TAGSTREAM_CACHE=str(folder / "cache"))

    def call(self, *arguments):
        run = subprocess.run(
            [self.binary, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.environment,
        )
        if run.returncode:
            raise SystemExit(f"tagstream {arguments[0]}: {run.stderr}")
        return run.stdout

    def prepare(self):
        """Pictures, two versions, a broker."""
        self.call(
            "scenes", "--out", self.folder / "scenes", "--count", self.options.pictures, "--seed", 7
        )
        pictures = sorted((self.folder / "scenes/images").rglob("*.*"))
        list_of = [str(pictures[i % len(pictures)]) for i in range(self.options.portion)]
        (self.folder / "list").write_text("\n".join(list_of))
        names = (self.folder / "scenes/categories.txt").read_text().split("\n")
        first = [name for name in names if name]
        second, more = first, []
        if self.case == "head":
            second = [f"{name}\ta drawing of {name}" for name in first]
        elif self.case == "categories":
            second = [*first, "other\tsomething else"]
        else:
            more = ["--dense-mode", "value_positional"]
        self.versions = {}
        for number, (lines, settings) in enumerate([(first, []), (second, more)], 1):
            (self.folder / f"{number}.txt").write_text("\n".join(lines) + "\n")
            made = self.folder / f"model-{number}"
            self.call(
                "init",
                "--clip",
                ROOT / "models/demo-clip",
                "--categories",
                self.folder / f"{number}.txt",
                "--out",
                made,
                *settings,
            )
            self.call(
                "registry",
                "add",
                made,
                "--registry",
                self.folder / "registry",
                *(["--promote"] if number == 1 else []),
            )
            self.versions[json.loads((made / "bundle.json").read_text())["id"]] = number
        address = self.folder / "address"
        topics = [f"images:{PARTITIONS}", f"predictions:{PARTITIONS}", "dead-letters:1"]
        named = [word for topic in topics for word in ("--topic", topic)]
        broker = [self.binary, "broker", "--address-file", str(address), *named]
        self.broker = subprocess.Popen(
            broker, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.until(address.exists, "the broker serves")
        self.brokers = address.read_text()

    def until(self, condition, what, limit=60.0):
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"not within {limit:.0f} s: {what}")
            time.sleep(0.05)

    def inferred(self):
        try:
            text = (
                urllib.request.urlopen(f"http://127.0.0.1:{self.options.port}/metrics", timeout=10)
                .read()
                .decode()
            )
        except OSError:
            return 0
        lines = [l for l in text.splitlines() if l.startswith("tagstream_inference_images_total")]
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))

    def feed(self):
        """Always more references in the topic than the stage can take."""
        while not self.over.is_set():
            if self.sent - self.inferred() < self.options.backlog:
                self.call(
                    "produce", "--brokers", self.brokers, "--topic", "images", self.folder / "list"
                )
                self.sent += self.options.portion
            else:
                self.over.wait(0.2)

    def watch_memory(self):
        status = pathlib.Path(f"/proc/{self.stage.pid}/status")
        while True:
            try:
                kib = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
            except (OSError, TypeError):
                return  # It has ended.
            self.memory.append((time.time(), kib / 1024))
            time.sleep(0.25)

    def run(self):
        self.prepare()
        config = self.folder / "stage.toml"
        config.write_text(
            CONFIG.format(brokers=self.brokers, folder=self.folder, port=self.options.port)
        )
        log = open(self.folder / "log", "w")
        self.stage = subprocess.Popen(
            [self.binary, "run", "--config", str(config)], stderr=log, env=self.environment
        )
        threads = [
            threading.Thread(target=work, daemon=True) for work in (self.feed, self.watch_memory)
        ]
        for thread in threads:
            thread.start()
        feeding, watching = threads
        self.until(lambda: self.inferred() > 1000, "the stage works")
        self.began = time.time()
        time.sleep(self.options.before)
        self.moved = []
        for swap in range(self.options.swaps):
            at = time.time()
            self.call(
                "registry",
                "promote",
                2 - swap % 2,
                "--registry",
                self.folder / "registry",
                "--why",
                "bench",
            )
            self.moved.append(time.time())
            time.sleep(max(0.0, self.options.every - (time.time() - at)))
            if self.stage.poll() is not None:
                raise SystemExit(f"the stage ended by itself: {self.stage.returncode}")
        self.ended = time.time()
        self.over.set()
        feeding.join()
        # What is left in the topic is worked off, so that every reference can be accounted for.
        self.until(lambda: self.inferred() >= self.sent, "the backlog is worked off", 600.0)
        self.stage.terminate()
        code = self.stage.wait(60)
        watching.join()
        self.broker.stdin.close()
        self.broker.wait(30)
        if code:
            raise SystemExit(
                f"the stage ended with {code}: {(self.folder / 'log').read_text()[-2000:]}"
            )
        return self.measure()

    def stop(self):
        """Whatever happened: nothing goes on running."""
        self.over.set()
        for process in (self.stage, self.broker):
            if process and process.poll() is None:
                process.kill()
                process.wait()

    def rows(self):
        """(file, offsets, seconds, versions) of every file."""
        for path in sorted((self.folder / "tables/predictions").rglob("*.parquet")):
            table = pyarrow.parquet.read_table(
                path, columns=["offset", "processed_time", "model_version"]
            )
            times = table["processed_time"].cast("timestamp[us]").cast("int64").to_pylist()
            versions = table["model_version"].to_pylist()
            yield path, table["offset"].to_pylist(), [t / 1e6 for t in times], versions

    def measure(self):
        made, offsets, misordered, files = [], {}, 0, 0
        for path, numbers, times, versions in self.rows():
            files += 1
            before = offsets.setdefault(path.parent.name, [])
            for number in numbers:
                misordered += bool(before) and number <= before[-1]
                before.append(number)
            made += zip(times, versions)
        found = sum(len(numbers) for numbers in offsets.values())
        distinct = sum(len(set(numbers)) for numbers in offsets.values())
        lost = self.sent - distinct
        made.sort()
        swapped, batches, loads = [], [], []
        for line in open(self.folder / "log"):
            event = json.loads(line)
            at = datetime.datetime.fromisoformat(
                event["timestamp"].replace("Z", "+00:00")
            ).timestamp()
            if event.get("message") == "model swapped":
                swapped.append((at, event["to"], event["encoder_kept"]))
            elif event.get("message") == "model prepared":
                loads.append(event["processor_seconds"])
            elif event.get("message") == "batch":
                batches.append(Batch(at, *(event[name] for name in Batch._fields[1:])))
        if len(swapped) != self.options.swaps:
            raise SystemExit(f"{len(swapped)} swaps, {self.options.swaps} were asked for")
        loads = loads[-len(swapped) :]  # The first is the start.

        seconds = int(self.ended - self.began)
        rate = [0] * seconds
        for at, _ in made:
            if 0 <= (second := int(at - self.began)) < seconds and at >= self.began:
                rate[second] += 1
        memory = [
            [mib for at, mib in self.memory if second <= at - self.began < second + 1]
            for second in range(seconds)
        ]
        # A swap begins when the pointer moves, and is over when the engine has exchanged the model.
        windows = [
            (moved - self.began, at - self.began) for moved, (at, _, _) in zip(self.moved, swapped)
        ]
        touched = {s for begin, end in windows for s in range(int(begin) - 1, int(end) + 1)}
        calm = [r for s, r in enumerate(rate) if s not in touched]
        usual = statistics.median(calm)
        worst = min(r for s, r in enumerate(rate) if s in touched)
        mean = statistics.mean(r for s, r in enumerate(rate) if s in touched)

        # The median of a batch's size and model, since the two models' times differ.
        alike = {}
        for batch in batches:
            alike.setdefault((batch.model, batch.images), []).append(batch)
        full = max(batches, key=lambda b: len(alike[b.model, b.images])).images
        alike = {key: of for key, of in alike.items() if len(of) >= 20}
        median = {
            key: [
                statistics.median(b.seconds for b in of),
                statistics.median(b.processor_seconds for b in of),
            ]
            for key, of in alike.items()
        }
        known = lambda batch: (batch.model, batch.images) in median
        over = lambda b: b.seconds / median[b.model, b.images][0]
        processor_over = lambda b: b.processor_seconds / median[b.model, b.images][1]
        # Rows from the pointer's move until a quarter of a second after the exchange, against all
        # other time.
        spans = [
            (moved, min(at + 0.25, self.ended)) for moved, (at, _, _) in zip(self.moved, swapped)
        ]
        within = sum(any(begin <= at < end for begin, end in spans) for at, _ in made)
        within_time = sum(end - begin for begin, end in spans)
        outside = sum(self.began <= at < self.ended for at, _ in made) - within
        outside_rate = outside / (self.ended - self.began - within_time)
        lines, swaps, first_batches = [], [], []
        for second, (count, mibs) in enumerate(zip(rate, memory)):
            lines.append(
                {
                    "case": self.case,
                    "second": second,
                    "images": count,
                    "rss_mib": round(max(mibs, default=0), 1),
                    "swapping": second in touched,
                }
            )
        for number, ((at, to, kept), moved, load) in enumerate(zip(swapped, self.moved, loads), 1):
            until = swapped[number][0] if number < len(swapped) else float("inf")
            firsts = {}
            for batch in batches:
                if (
                    batch.model == to
                    and at - 1 <= batch.ended - batch.seconds
                    and batch.ended < until
                    and known(batch)
                ):
                    firsts.setdefault(batch.worker, batch)
            first_batches += firsts.values()
            firsts = sorted(firsts.values(), key=over)
            row = next((t for t, version in made if version == to and t > moved), None)
            gap = max(b[0] - a[0] for a, b in zip(made, made[1:]) if at - 1 < b[0] < at + 1)
            # The model that was exchanged goes a second later.
            held = [mib for t, mib in self.memory if at + 1.2 <= t < min(until, self.ended + 1)]
            swaps.append(
                {
                    "case": self.case,
                    "swap": number,
                    "to_version": self.versions[to],
                    "encoder_kept": kept,
                    "loading_processor_s": load,
                    "pointer_to_swap_s": round(at - moved, 3),
                    "pointer_to_first_row_s": round(row - moved, 3),
                    "first_batches_over_median": [round(over(b), 2) for b in firsts],
                    "first_batches_processor_over_median": [
                        round(processor_over(b), 2) for b in firsts
                    ],
                    "first_batches_page_faults": [b.page_faults for b in firsts],
                    "longest_gap_between_rows_s": round(gap, 3),
                    "rss_mib_after": round(statistics.median(held), 1) if held else None,
                }
            )
        after = [swap["rss_mib_after"] for swap in swaps if swap["rss_mib_after"] is not None]
        # The first swaps fill the allocator's arenas with what two models need beside each other;
        # growth is what comes after.
        slope = lambda of: (
            statistics.linear_regression(range(len(of)), of).slope if len(of) > 2 else 0.0
        )
        ordinary = [batch for batch in batches if known(batch)]
        summary = {
            "case": self.case,
            "summary": True,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": host(),
            "load": os.getloadavg()[0],
            "commit": commit(),
            "swaps": len(swaps),
            "messages": self.sent,
            "rows": found,
            "files": files,
            "lost": lost,
            "doubled": found - distinct,
            "misordered": misordered,
            "images_per_second": usual,
            "while_swapping_mean": round(mean, 1),
            "while_swapping_worst_second": worst,
            "dip_mean": round(1 - mean / usual, 3),
            "dip_worst_second": round(1 - worst / usual, 3),
            "around_swaps": {
                "images_per_second": round(within / within_time, 1),
                "otherwise": round(outside_rate, 1),
                "dip": round(1 - within / within_time / outside_rate, 3),
            },
            "batch_images": full,
            "batch_median_ms": round(
                1000 * statistics.median(b.seconds for b in batches if b.images == full), 2
            ),
            "first_batch_over_median": shares(map(over, first_batches)),
            "ordinary_batch_over_median": shares(map(over, ordinary)),
            "first_batch_processor_over_median": shares(map(processor_over, first_batches)),
            "ordinary_batch_processor_over_median": shares(map(processor_over, ordinary)),
            "swaps_median_first_batch_over_median": shares(
                statistics.median(s["first_batches_over_median"]) for s in swaps
            ),
            "page_faults": {
                "first_batch_median": statistics.median(b.page_faults for b in first_batches),
                "ordinary_batch_median": statistics.median(b.page_faults for b in ordinary),
            },
            "loading_processor_s": {"median": statistics.median(loads), "largest": max(loads)},
            "pointer_to_swap_s": {
                "median": statistics.median(s["pointer_to_swap_s"] for s in swaps),
                "largest": max(s["pointer_to_swap_s"] for s in swaps),
            },
            "longest_gap_between_rows_s": max(s["longest_gap_between_rows_s"] for s in swaps),
            "rss_mib_before": round(
                statistics.median(m for t, m in self.memory if self.began <= t < self.moved[0]), 1
            ),
            "rss_mib_most": round(max(m for _, m in self.memory), 1),
            "rss_mib_after_first": after[0],
            "rss_mib_after_last": after[-1],
            "rss_mib_slope_per_swap": round(slope(after), 3),
            "rss_mib_slope_per_swap_second_half": round(slope(after[len(after) // 2 :]), 3),
        }
        return lines + swaps, summary


def host():
    names = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} x {names[0] if names else 'unknown'}"


def commit():
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True)
    return git("rev-parse", "--short", "HEAD").stdout.strip() + (
        "+" if git("diff", "--quiet", "HEAD").returncode else ""
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", required=True)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--every", type=float, default=2.5, help="seconds between two swaps")
    parser.add_argument("--before", type=float, default=10.0, help="seconds before the first")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--portion", type=int, default=4000, help="references written at a time")
    parser.add_argument("--backlog", type=int, default=4000, help="references that wait at least")
    parser.add_argument("--port", type=int, default=19610)
    parser.add_argument("--keep-log", help="where to copy the stage's log")
    parser.add_argument("--log", default=str(ROOT / "benches/runs/swaps.jsonl"))
    parser.add_argument("cases", nargs="*", default=["head", "categories", "encoder"])
    options = parser.parse_args()
    good = True
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options, case, pathlib.Path(folder))
            try:
                lines, summary = bench.run()
            finally:
                if options.keep_log:
                    shutil.copy(bench.folder / "log", options.keep_log)
                bench.stop()
        with open(options.log, "a") as log:
            for line in [*lines, summary]:
                log.write(json.dumps(line) + "\n")
        print(json.dumps(summary, indent=1))
        print("lost={lost} doubled={doubled} misordered={misordered}".format(**summary), flush=True)
        good &= not (summary["lost"] or summary["doubled"] or summary["misordered"])
        # By the clock over a swap's workers, since any one batch may have waited for a core; by
        # processor time for every batch.
        slow = {
            "swaps whose first batches are": summary["swaps_median_first_batch_over_median"][
                "above_2"
            ],
            "first batches whose processor time is": summary["first_batch_processor_over_median"][
                "above_2"
            ],
        }
        for what, count in slow.items():
            if count:
                print(f"{case}: {count} {what} more than twice the median", file=sys.stderr)
                good = False
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
