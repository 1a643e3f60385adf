"""The stage's work in Python, as well as it can be done there: the yardstick of `tagstream bench
--peer` and of benches/stream.

Reads image references from a topic, fetches what is behind `http` addresses (a thread for each of
64 images at most, connections kept), decodes in a process per core (simplejpeg and OpenCV, or
Pillow with draft mode: libjpeg-turbo reduces while it decodes; pixels go through shared memory
straight into the batch), runs encoder and head in one thread per core over one shared ONNX Runtime
session each, writes the prediction messages and the same Parquet columns as the stage, and commits
offsets after the files. It delivers at least once; the stage's other guarantees (exactly one file
per message, dead letters, bounded memory, model swaps) are not attempted.
"""

import argparse
import datetime
import http.client
import json
import multiprocessing
import os
import pathlib
import queue
import signal
import sys
import threading
import time
import traceback
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory

from decoding import decode_worker

BATCH = int(os.environ.get("TAGSTREAM_PEER_BATCH", "8"))
MAX_DELAY = 0.020
FILE_AGE = 4.0
# Images being fetched at a time.
FETCHES = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("brokers", "topic", "group", "model", "predictions-topic", "out"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


class Batch:
    """Places of one batch and the messages in them."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.clear()

    def clear(self) -> None:
        self.messages: list = []
        self.sizes = [(0, 0)] * BATCH
        self.failed: set[int] = set()
        self.done = 0
        self.sealed = False
        self.opened = 0.0


def peak_box(saliency, columns: int, threshold: float = 0.5) -> dict:
    """The box around the connected part of the map that holds its maximum."""
    rows = len(saliency) // columns
    peak = int(saliency.argmax())
    level = saliency[peak] * threshold
    seen, edge = {peak}, [peak]
    left = right = peak % columns
    top = bottom = peak // columns
    while edge:
        at = edge.pop()
        row, column = divmod(at, columns)
        left, right = min(left, column), max(right, column)
        top, bottom = min(top, row), max(bottom, row)
        for inside, near in (
            (row > 0, at - columns),
            (row + 1 < rows, at + columns),
            (column > 0, at - 1),
            (column + 1 < columns, at + 1),
        ):
            if inside and near not in seen and saliency[near] >= level:
                seen.add(near)
                edge.append(near)
    return {
        "x": left / columns,
        "y": top / rows,
        "w": (right - left + 1) / columns,
        "h": (bottom - top + 1) / rows,
    }


class Peer:
    def __init__(
        self, args: argparse.Namespace, cores: int, manifest: dict, tasks, results, memory
    ) -> None:
        import confluent_kafka
        import numpy
        import onnxruntime

        self.numpy, self.args, self.tasks, self.results = numpy, args, tasks, results
        self.manifest = manifest
        self.height, self.width = (manifest["preprocessing"][side] for side in ("height", "width"))
        self.names = [category["name"] for category in manifest["categories"]]
        self.thresholds = numpy.array(
            [category["threshold"] for category in manifest["categories"]], numpy.float32
        )
        self.columns = manifest["dims"]["grid_width"]
        self.temperature = manifest["calibration"]["temperature"]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = pathlib.Path(args.model)
        # A session may run in several threads at once: one copy of the weights serves all.
        self.encoder = onnxruntime.InferenceSession(
            model / "encoder.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.head = onnxruntime.InferenceSession(
            model / "head.onnx", options, providers=["CPUExecutionProvider"]
        )

        self.batches = [Batch(index) for index in range(2 * cores + 2)]
        shape = (len(self.batches), BATCH, self.height, self.width, 3)
        self.pixels = numpy.ndarray(shape, numpy.uint8, memory.buf)
        self.free: queue.SimpleQueue = queue.SimpleQueue()
        for batch in self.batches:
            self.free.put(batch)
        self.ready: queue.SimpleQueue = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.rows: dict[int, list] = {}
        self.next: dict[int, int] = {}
        self.finished: dict[int, set] = {}
        self.in_flight = 0
        self.idle = 0
        self.arrived: queue.Queue = queue.Queue()
        self.seats = threading.Semaphore(FETCHES)
        self.of_thread = threading.local()
        self.stop = threading.Event()
        self.consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": args.brokers,
                "group.id": args.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "partition.assignment.strategy": "cooperative-sticky",
            }
        )
        self.consumer.subscribe([args.topic])
        self.producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": args.brokers,
                "enable.idempotence": True,
                "linger.ms": 5,
            }
        )
        self.kafka = confluent_kafka
        for target in [self.read, self.assemble, self.collect] + [self.infer] * cores:
            threading.Thread(target=target, daemon=True).start()

    def read(self) -> None:
        """Messages to whatever brings their pictures."""
        fetching = ThreadPoolExecutor(FETCHES)
        while not self.stop.is_set():
            # What is there; waits for the first one only.
            messages = self.consumer.consume(1, MAX_DELAY)
            for message in messages + self.consumer.consume(BATCH - 1, 0):
                if message.error():
                    continue
                reference = json.loads(message.value())
                with self.lock:
                    self.next.setdefault(message.partition(), message.offset())
                    self.in_flight += 1
                self.seats.acquire()
                address = urllib.parse.urlparse(reference["uri"])
                if address.scheme == "http":
                    fetching.submit(self.fetch, message, reference, address)
                else:
                    path = urllib.parse.unquote(address.path)
                    self.arrived.put((message, reference, path))
        fetching.shutdown()
        self.arrived.put(None)

    def fetch(self, message, reference: dict, address: urllib.parse.ParseResult) -> None:
        """A picture over a connection of this thread's own, which stays open."""
        connections = vars(self.of_thread)
        body = b""
        try:
            if (connection := connections.get(address.netloc)) is None:
                connection = http.client.HTTPConnection(address.netloc, timeout=10)
                connections[address.netloc] = connection
            connection.request("GET", address.path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                body = b""
        except (OSError, http.client.HTTPException):
            # Nothing to decode: the picture fails like a broken one.
            connections.pop(address.netloc, None)
        self.arrived.put((message, reference, body))

    def assemble(self) -> None:
        """Pictures that are there into places of batches. A batch ends when it is full or has
        waited; nothing waits while a thread has no batch to work on."""
        batch = None
        while True:
            left = None if batch is None else batch.opened + MAX_DELAY - time.monotonic()
            if self.idle and batch is not None:
                left = 0.0
            try:
                arrival = self.arrived.get(timeout=None if left is None else max(left, 1e-4))
            except queue.Empty:
                self.seal(batch)
                batch = None
                continue
            if arrival is None:
                break
            message, reference, source = arrival
            if batch is None:
                batch = self.free.get()
                batch.opened = time.monotonic()
            with self.lock:
                place = len(batch.messages)
                batch.messages.append((message, reference))
            self.tasks.put((batch.index * BATCH + place, source))
            self.seats.release()
            if place + 1 == BATCH:
                self.seal(batch)
                batch = None
        if batch is not None:
            self.seal(batch)

    def seal(self, batch: Batch) -> None:
        with self.lock:
            batch.sealed = True
            complete = batch.done == len(batch.messages)
        if complete:
            self.ready.put(batch)

    def collect(self) -> None:
        """What the decoding processes report."""
        while True:
            place, size, error = self.results.get()
            index, slot = divmod(place, BATCH)
            batch = self.batches[index]
            batch.sizes[slot] = size
            if error is not None:
                batch.failed.add(slot)
            with self.lock:
                batch.done += 1
                complete = batch.sealed and batch.done == len(batch.messages)
            if complete:
                self.ready.put(batch)

    def infer(self) -> None:
        numpy = self.numpy
        while True:
            with self.lock:
                self.idle += 1
            batch = self.ready.get()
            with self.lock:
                self.idle -= 1
            count = len(batch.messages)
            dense, whole = self.encoder.run(
                ["dense", "global"], {"pixels": self.pixels[batch.index, :count]}
            )
            logits, saliency, embedding = self.head.run(
                ["logits", "saliency", "embedding"], {"dense": dense, "global": whole}
            )
            scores = 1 / (1 + numpy.exp(-logits / self.temperature))
            now = datetime.datetime.now(datetime.timezone.utc)
            rows = []
            for i, (message, reference) in enumerate(batch.messages):
                if i in batch.failed:
                    continue
                hits = numpy.flatnonzero(scores[i] >= self.thresholds)
                hits = hits[numpy.argsort(-scores[i][hits], kind="stable")]
                tags = [
                    {
                        "category": self.names[c],
                        "score": float(scores[i][c]),
                        "box": peak_box(saliency[i][c], self.columns),
                    }
                    for c in hits
                ]
                event = datetime.datetime.fromtimestamp(
                    message.timestamp()[1] / 1000, datetime.timezone.utc
                )
                rows.append(
                    (message, reference, event, now, batch.sizes[i], tags, scores[i], embedding[i])
                )
                value = {
                    "image_id": reference["image_id"],
                    "uri": reference["uri"],
                    "event_time": event.isoformat(),
                    "model_version": self.manifest["id"],
                    "source": {
                        "topic": message.topic(),
                        "partition": message.partition(),
                        "offset": message.offset(),
                    },
                    "tags": tags,
                }
                self.producer.produce(
                    self.args.predictions_topic, json.dumps(value).encode(), reference["image_id"]
                )
            self.producer.poll(0)
            with self.lock:
                for row in rows:
                    self.rows.setdefault(row[0].partition(), []).append(row)
                for message, _ in batch.messages:
                    self.finished.setdefault(message.partition(), set()).add(message.offset())
                self.in_flight -= count
            batch.clear()
            self.free.put(batch)

    def write(self) -> None:
        """A file for every partition with rows, then the offsets."""
        with self.lock:
            rows, self.rows = self.rows, {}
            commits = []
            for partition, done in self.finished.items():
                offset = self.next[partition]
                while offset in done:
                    done.remove(offset)
                    offset += 1
                self.next[partition] = offset
                commits.append(self.kafka.TopicPartition(self.args.topic, partition, offset))
        self.producer.flush()
        for partition, of_partition in rows.items():
            self.write_file(partition, sorted(of_partition, key=lambda row: row[0].offset()))
        if commits:
            self.consumer.commit(offsets=commits, asynchronous=False)

    def write_file(self, partition: int, rows: list) -> None:
        import pyarrow
        import pyarrow.parquet

        numpy = self.numpy

        def vectors(at: int):
            values = numpy.concatenate([row[at] for row in rows]).astype(numpy.float32, copy=False)
            return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), len(rows[0][at]))

        times = pyarrow.timestamp("us", "UTC")
        box = pyarrow.struct([(name, pyarrow.float32()) for name in "xywh"])
        tag = pyarrow.struct(
            [("category", pyarrow.string()), ("score", pyarrow.float32()), ("box", box)]
        )
        attributes = [list(row[1].get("attributes", {}).items()) for row in rows]
        table = pyarrow.table(
            {
                "image_id": [row[1]["image_id"] for row in rows],
                "uri": [row[1]["uri"] for row in rows],
                "event_time": pyarrow.array([row[2] for row in rows], times),
                "processed_time": pyarrow.array([row[3] for row in rows], times),
                "topic": [self.args.topic] * len(rows),
                "partition": pyarrow.array([partition] * len(rows), pyarrow.int32()),
                "offset": [row[0].offset() for row in rows],
                "model_version": [self.manifest["id"]] * len(rows),
                "width": pyarrow.array([row[4][0] for row in rows], pyarrow.int32()),
                "height": pyarrow.array([row[4][1] for row in rows], pyarrow.int32()),
                "tags": pyarrow.array([row[5] for row in rows], pyarrow.list_(tag)),
                "scores": vectors(6),
                "embedding": vectors(7),
                "attributes": pyarrow.array(
                    attributes, pyarrow.map_(pyarrow.string(), pyarrow.string())
                ),
            }
        )
        folder = pathlib.Path(self.args.out, "predictions", self.args.topic, str(partition))
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{rows[0][0].offset():020}-{time.time_ns()}"
        aside = folder / f".{name}.partial"
        vector_columns = ["scores.list.element", "embedding.list.element"]
        others = [column for column in table.column_names if column not in ("scores", "embedding")]
        pyarrow.parquet.write_table(
            table,
            aside,
            compression="zstd",
            compression_level=1,
            use_dictionary=others,
            use_byte_stream_split=vector_columns,
            write_statistics=others,
        )
        aside.rename(folder / f"{name}.parquet")

    def run(self) -> None:
        written = time.monotonic()
        while not self.stop.wait(0.05):
            if time.monotonic() - written > FILE_AGE:
                self.write()
                written = time.monotonic()
        while True:
            with self.lock:
                if self.in_flight == 0:
                    break
            time.sleep(0.01)
        self.write()
        self.consumer.close()


def main() -> None:
    args = arguments()
    manifest = json.loads(pathlib.Path(args.model, "bundle.json").read_text())
    preprocessing = manifest["preprocessing"]
    if preprocessing["fit"] != "squash":
        raise SystemExit(f"the peer knows the fit `squash` only, not {preprocessing['fit']}")
    height, width = preprocessing["height"], preprocessing["width"]
    cores = len(os.sched_getaffinity(0))
    memory = shared_memory.SharedMemory(
        create=True, size=(2 * cores + 2) * BATCH * height * width * 3
    )
    tasks, results = multiprocessing.SimpleQueue(), multiprocessing.SimpleQueue()
    # Before anything large is loaded or any thread runs: the children are small.
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(
            target=decode_worker,
            daemon=True,
            args=(
                tasks,
                results,
                memory.name,
                height,
                width,
                preprocessing["filter"] == "bilinear",
            ),
        )
        for _ in range(cores)
    ]
    for worker in workers:
        worker.start()
    code = 1
    try:
        peer = Peer(args, cores, manifest, tasks, results, memory)
        signal.signal(signal.SIGTERM, lambda *_: peer.stop.set())
        peer.run()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        for worker in workers:
            worker.terminate()
        memory.unlink()
        sys.stderr.flush()
        # Threads that wait for more work must not keep the process from ending.
        os._exit(code)


if __name__ == "__main__":
    main()
