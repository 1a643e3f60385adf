"""What latency.py and fetching.py measure, and what they need for it: pictures behind a server with
an answer time, topics of a real Kafka, the stage and the Python peer as processes of their own, and
a clock at both ends of them."""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path += [str(HERE.parent), str(HERE.parent / "mix")]

PARTITIONS = 4
# Nothing that is waited for may take longer.
PATIENCE = 120.0
STAGE = """
[kafka]
brokers = "{brokers}"
group_id = "{name}"
[source]
images_topic = "{name}-images"
[fetch]
allow_schemes = ["file", "http", "s3"]
allow_hosts = ["127.0.0.1"]
allow_buckets = ["pictures"]
allow_private_addresses = true
allow_path_prefixes = ["{pictures}"]
[object_store.s3]
endpoint = "http://127.0.0.1:{port}"
allow_http = "true"
region = "us-east-1"
access_key_id = "bench"
secret_access_key = "bench"
[model]
path = "{model}"
[output]
url = "{folder}/tables"
predictions_topic = "{name}-predictions"
predictions_order = "{order}"
dead_letter_topic = "{name}-dead"
max_file_age_ms = 4000
[http]
bind = ""
[log]
format = "text"
filter = "warn"
"""


def arguments_of(description: str) -> argparse.ArgumentParser:
    """What every measurement is told: program, brokers, model, a folder for work, a log of rows."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--log", type=pathlib.Path)
    return parser


def draw_pictures(folder: pathlib.Path, count: int, megapixels: tuple[float, float]) -> None:
    """JPEGs as the web has them."""
    import numpy as np
    from pictures import Kind, draw_kind

    kind = Kind(0, megapixels, "jpg", {"quality": 82})
    draw_kind(folder, kind, count, np.random.default_rng(0))


class Pictures:
    """Files of a folder, and the server that gives them out."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.names = sorted(path.name for path in folder.iterdir())
        self.process = subprocess.Popen(
            [sys.executable, HERE / "server.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())

    def uri(self, scheme: str, delay_ms: int, number: int) -> str:
        name = self.names[number % len(self.names)]
        if scheme == "file":
            return (self.folder / name).as_uri()
        store = "s3://pictures" if scheme == "s3" else f"http://127.0.0.1:{self.port}"
        return f"{store}/after/{delay_ms}/{name}"

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Clock:
    """Appends references to a subject's topic and waits for its prediction messages: when each
    reference was appended, as the broker says, and when its first prediction was received."""

    def __init__(self, brokers: str, name: str) -> None:
        self.topic = f"{name}-images"
        # The broker's own clock, which is this machine's.
        stamped = {"message.timestamp.type": "LogAppendTime"}
        admin = AdminClient({"bootstrap.servers": brokers})
        topics = [
            NewTopic(self.topic, PARTITIONS, 1, config=stamped),
            NewTopic(f"{name}-predictions", PARTITIONS, 1),
            NewTopic(f"{name}-dead", 1, 1),
        ]
        for made in admin.create_topics(topics).values():
            made.result()
        self.appended: dict[int, float] = {}
        self.received: dict[int, float] = {}
        self.dead = 0
        self.producer = confluent_kafka.Producer(
            {"bootstrap.servers": brokers, "linger.ms": 0, "acks": 1}
        )
        self.consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": f"{name}-clock",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        assigned = [(f"{name}-predictions", at) for at in range(PARTITIONS)] + [(f"{name}-dead", 0)]
        beginning = confluent_kafka.OFFSET_BEGINNING
        self.consumer.assign(
            [confluent_kafka.TopicPartition(topic, at, beginning) for topic, at in assigned]
        )
        self.sent, self.stopped = 0, False
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        while not self.stopped:
            for message in self.consumer.consume(500, 0.05):
                now = time.time() * 1e3
                if message.error():
                    continue
                if message.topic().endswith("-dead"):
                    self.dead += 1
                    continue
                number = int(json.loads(message.value())["image_id"].rpartition("-")[2])
                self.received.setdefault(number, now)
        self.consumer.close()

    def send(self, uris: list[str], rate: float | None, draw: random.Random) -> range:
        """Appends references, all at once or at a mean rate, as many that know nothing of each
        other would (Poisson); their numbers."""
        first, due = self.sent, time.monotonic()
        for uri in uris:
            if rate is not None:
                due += draw.expovariate(rate)
                while (left := due - time.monotonic()) > 0:
                    self.producer.poll(min(left, 0.005))
            self.append(uri)
        if self.producer.flush(PATIENCE):
            sys.exit(f"the broker does not take the messages of {self.topic}")
        return range(first, self.sent)

    def append(self, uri: str) -> None:
        number = self.sent

        def stamped(error, message) -> None:
            if error is None:
                self.appended[number] = float(message.timestamp()[1])

        value = json.dumps({"image_id": f"bench-{number}", "uri": uri})
        while True:
            try:
                self.producer.produce(
                    self.topic,
                    value,
                    key=f"bench-{number}",
                    partition=number % PARTITIONS,
                    on_delivery=stamped,
                )
                break
            except BufferError:
                self.producer.poll(0.01)
        self.sent += 1

    def wait(self, numbers: range, subject: "Subject") -> None:
        until = time.monotonic() + PATIENCE
        while not all(number in self.received for number in numbers):
            subject.check()
            if self.dead:
                sys.exit(f"{subject.name}: {self.dead} references became dead letters")
            if time.monotonic() > until:
                missing = sum(number not in self.received for number in numbers)
                sys.exit(f"{subject.name}: {missing} of {len(numbers)} predictions are missing")
            time.sleep(0.02)

    def latencies(self, numbers: range) -> list[float]:
        """Milliseconds from the append to the prediction."""
        return [self.received[number] - self.appended[number] for number in numbers]

    def rate(self, numbers: range) -> float:
        """Images a second from the first append to the prediction of the last but a twentieth: the
        end of a flood, when the line empties, says nothing about the rate."""
        times = sorted(self.received[number] for number in numbers)
        counted = max(1, len(times) - len(times) // 20)
        begun = min(self.appended[number] for number in numbers)
        return counted / (times[counted - 1] - begun) * 1e3

    def end(self) -> None:
        self.stopped = True
        self.reader.join()


class Subject:
    """The stage, or the peer, as a process; its log is in its folder."""

    def __init__(self, kind: str, args, pictures: Pictures, work: pathlib.Path) -> None:
        self.kind, self.name = kind, f"{kind}-{os.getpid()}"
        folder = work / self.name
        folder.mkdir(parents=True)
        self.clock = Clock(args.brokers, self.name)
        self.log = folder / "log"
        command = self.command(args, pictures, folder)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def command(self, args, pictures: Pictures, folder: pathlib.Path) -> list[str]:
        if self.kind == "peer":
            said = {
                "brokers": args.brokers,
                "topic": f"{self.name}-images",
                "group": self.name,
                "model": args.model,
                "predictions-topic": f"{self.name}-predictions",
                "out": folder,
            }
            options = [str(word) for key, value in said.items() for word in (f"--{key}", value)]
            return [str(HERE.parent / "peer" / "run.sh"), *options]
        config = folder / "stage.toml"
        config.write_text(
            STAGE.format(
                brokers=args.brokers,
                name=self.name,
                pictures=pictures.folder,
                port=pictures.port,
                model=args.model,
                folder=folder,
                order="ready" if self.kind == "stage-ready" else "offset",
            )
        )
        return [str(args.binary), "run", "--config", str(config)]

    def check(self) -> None:
        if (code := self.process.poll()) is not None:
            sys.exit(f"{self.name} ended with {code}:\n{self.log.read_text()[-3000:]}")

    def processor_seconds(self) -> float:
        """Of the process and those that it started, so far; the children that have ended, too."""
        parents, spent = collections.defaultdict(list), {}
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            process = int(stat.parent.name)
            parents[int(fields[1])].append(process)
            spent[process] = sum(int(field) for field in fields[11:15])
        family, found = [self.process.pid], 0
        while family:
            process = family.pop()
            found += spent.get(process, 0)
            family += parents[process]
        return found / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.clock.end()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit(f"{self.name} does not end")
