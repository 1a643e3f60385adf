#!/usr/bin/env python3
"""Garbage at the HTTP ports of a stage and of its pages while the stage works: what it costs.

    scripts/setup.sh build; cargo build --release --locked
    python3 benches/flood.py --binary target/release/tagstream --log benches/runs/flood.jsonl

A stage reads from a real Kafka (scripts/kafka.sh) as fast as it can. Windows with and without the
flood take turns (A B B A ...); what is compared is the rows a second of neighbours, and the stage's
processor time a row. The flood is --rate requests a second in all, half of them at each port, by
processes of this program: broken HTTP, paths that lead nowhere, bodies that are too large, JSON
that is none, and connections that send a byte and wait. Where there are cores enough, the stage has
its own (--stage-cores), and everything else, the pages too, the rest (--other-cores).

Prints a summary as JSON and appends it to --log. Fails if a process ended, if a page or the stage's
health does not answer when it is over, or with --at-most if the loss is larger than that.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import select
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from soak import CONFIG, ROOT, counter, kafka, png

PAGES = """
[serve]
bind = "127.0.0.1:{pages}"
[registry]
url = "{folder}/registry"
[tables]
url = "{folder}/tables"
[stages]
addresses = ["127.0.0.1:{stage}"]
[log]
format = "text"
filter = "error"
"""
SLOW_SECONDS = 5.0
MOST_OPEN = 400


def garbage(draw: random.Random, port: int) -> tuple[str, bytes]:
    """A request's kind, and its bytes. One of `slow` is not finished."""
    host = f"Host: 127.0.0.1:{port}\r\n"
    noise = draw.randbytes(draw.randrange(1, 600))
    kind = draw.choice(("malformed", "path", "oversize", "json", "foreign", "slow"))
    if kind == "malformed":
        lines = (b"GET / HTTP/9.9\r\n\r\n", b"\0" * 64, noise, b"GET\r\n\r\n", b"POST /v1/tag\r\n")
        return kind, draw.choice(lines)
    if kind == "path":
        paths = ("/../../etc/passwd", "/%00", "/models/9999", "/" + "a" * 4000, "/pictures/x", "//")
        path = draw.choice(paths) + f"?{draw.random()}"
        return kind, f"GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode()
    if kind == "oversize":
        head = f"POST /review/say HTTP/1.1\r\n{host}Content-Type: application/x-www-form-urlencoded"
        return kind, f"{head}\r\nContent-Length: 99999999999\r\n\r\n".encode() + b"x" * 16384
    if kind == "json":
        body = draw.choice((b'{"image": ', b"[" * 5000, b'{"uri": 7}', noise))
        paths = ("/v1/tag", "/v1/embed", "/label-studio/webhook", "/label-studio/predict")
        path = draw.choice(paths)
        head = f"POST {path} HTTP/1.1\r\n{host}Content-Type: application/json\r\nConnection: close"
        return kind, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    if kind == "foreign":
        head = "POST /models/decide HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example"
        return kind, f"{head}\r\nContent-Length: 3\r\nConnection: close\r\n\r\na=b".encode()
    return kind, f"GET / HTTP/1.1\r\n{host}X-Slow: ".encode()


def answered(sock: socket.socket, said: dict) -> None:
    """Notes what came back."""
    try:
        answer = sock.recv(64)
    except OSError:
        said["reset"] = said.get("reset", 0) + 1
        return
    status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"
    said[status] = said.get(status, 0) + 1


def flooding(port: int, rate: float, seed: int, on, ended, totals) -> None:
    """Sends garbage to a port at a rate whenever `on` is set. Whoever waits for no answer sends on
    time whatever the server does."""
    draw, sent, said = random.Random(seed), {}, {}
    waiting: list[tuple[float, socket.socket]] = []
    due = time.monotonic()
    while not ended.is_set():
        now = time.monotonic()
        if not on.is_set():
            on.wait(0.05)
            due = time.monotonic()
            continue
        if due > now:
            time.sleep(min(due - now, 0.01))
        else:
            due += 1.0 / rate
            kind, request = garbage(draw, port)
            try:
                sock = socket.create_connection(("127.0.0.1", port), timeout=1.0)
                sock.setblocking(False)
                sock.send(request)
                patience = SLOW_SECONDS if kind == "slow" else 1.0
                waiting.append((now + patience, sock))
                sent[kind] = sent.get(kind, 0) + 1
            except OSError:
                sent["refused"] = sent.get("refused", 0) + 1
        if len(waiting) > MOST_OPEN or (waiting and waiting[0][0] < now):
            ready = set(select.select([s for _, s in waiting], [], [], 0)[0])
            kept = []
            for at, (until, sock) in enumerate(waiting):
                if sock in ready or until < now or at < len(waiting) - MOST_OPEN:
                    if sock in ready:
                        answered(sock, said)
                    sock.close()
                else:
                    kept.append((until, sock))
            waiting = kept
    totals.put((port, sent, said))


def page(url: str) -> str:
    return urllib.request.urlopen(url, timeout=30).read().decode()


def status_of(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def processor_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def images_of(port: int) -> float:
    """What the model has seen; files come only every few seconds."""
    text = page(f"http://127.0.0.1:{port}/metrics")
    return counter(text, "tagstream_inference_images_total")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def window(stage: subprocess.Popen, port: int, seconds: float) -> dict:
    """Images a second, and processor time an image, over some seconds."""
    began, images, busy = time.monotonic(), images_of(port), processor_seconds(stage.pid)
    time.sleep(seconds)
    took, images = time.monotonic() - began, images_of(port) - images
    if images <= 0 or stage.poll() is not None:
        raise SystemExit("the stage has nothing to do or ended: more --messages, or see its log")
    busy = processor_seconds(stage.pid) - busy
    return {"images_per_second": images / took, "cpu_ms_per_image": 1e3 * busy / images}


def pairs(options, stage: subprocess.Popen, port: int, on) -> list[dict]:
    """Quiet and flooded windows, who is first changes with every pair."""
    measured = []
    for number in range(options.pairs):
        pair = {}
        for flooded in (False, True) if number % 2 == 0 else (True, False):
            (on.set if flooded else on.clear)()
            time.sleep(options.settle)
            pair["flooded" if flooded else "quiet"] = window(stage, port, options.seconds)
        on.clear()
        rates = [pair[side]["images_per_second"] for side in ("quiet", "flooded")]
        costs = [pair[side]["cpu_ms_per_image"] for side in ("quiet", "flooded")]
        pair["throughput_change"] = rates[1] / rates[0] - 1
        pair["cpu_change"] = costs[1] / costs[0] - 1
        print(
            f"pair {number + 1}: {rates[0]:.1f} and {rates[1]:.1f} images/s "
            f"({100 * pair['throughput_change']:+.2f} %), processor time an image "
            f"{100 * pair['cpu_change']:+.2f} %",
            flush=True,
        )
        measured.append(pair)
    return measured


def spread(values) -> dict:
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def measured(options, folder: pathlib.Path, brokers: str) -> dict:
    ports = {"stage": free_port(), "pages": free_port()}
    at = {"brokers": brokers, "folder": folder, "model": options.model, **ports}
    config = {"group": "flood", "file_age_ms": 5000, "port": ports["stage"], **at}
    (folder / "stage.toml").write_text(CONFIG.format(workers=options.workers, **config))
    (folder / "serve.toml").write_text(PAGES.format(**at))
    binary = str(pathlib.Path(options.binary).resolve())
    add = [binary, "registry", "add", "--promote", "--registry", folder / "registry", options.model]
    subprocess.run(add, check=True, stderr=subprocess.DEVNULL)
    pin = ["taskset", "-c", options.stage_cores] if options.stage_cores else []
    rest = ["taskset", "-c", options.other_cores] if options.other_cores else []
    if options.other_cores:
        os.sched_setaffinity(0, {int(core) for core in options.other_cores.split(",")})
    stage = subprocess.Popen([*pin, binary, "run", "--config", folder / "stage.toml"])
    running = [stage]
    on, ended = multiprocessing.Event(), multiprocessing.Event()
    totals, flooders = multiprocessing.Queue(), []
    for number, port in enumerate(ports.values()):
        each = (port, options.rate / 2, number, on, ended, totals)
        flooders.append(multiprocessing.Process(target=flooding, args=each, daemon=True))
    try:
        started = time.monotonic()
        while True:
            try:
                if images_of(ports["stage"]) > 0:
                    break
            except OSError:
                pass
            if stage.poll() is not None or time.monotonic() - started > 120:
                raise SystemExit("the stage never began")
            time.sleep(0.2)
        # Only now is there a folder of tables.
        pages = subprocess.Popen([*rest, binary, "serve", "--config", folder / "serve.toml"])
        running.append(pages)
        while status_of(f"http://127.0.0.1:{ports['pages']}/") != 200:
            if pages.poll() is not None or time.monotonic() - started > 120:
                raise SystemExit("the pages never began")
            time.sleep(0.2)
        for flooder in flooders:
            flooder.start()
        began = time.monotonic()
        rows = pairs(options, stage, ports["stage"], on)
        flooded_for = options.pairs * (options.seconds + options.settle)
        ended.set()
        told = [totals.get(timeout=60) for _ in flooders]
        # Limits let the next one in a minute later at most.
        health = status_of(f"http://127.0.0.1:{ports['stage']}/health/livez")
        first = status_of(f"http://127.0.0.1:{ports['pages']}/")
        if stage.poll() is not None or pages.poll() is not None or health != 200:
            raise SystemExit(f"it did not outlive the flood: {health}, {first}")
        names = {port: name for name, port in ports.items()}
        return {
            "kind": "flood",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": subprocess.check_output([binary, "--version"], text=True).strip(),
            "cores": os.cpu_count(),
            "stage_cores": options.stage_cores,
            "asked_rate": options.rate,
            "rate": sum(sum(sent.values()) for _, sent, _ in told) / flooded_for,
            "seconds": round(time.monotonic() - began, 1),
            "sent": {names[port]: sent for port, sent, _ in told},
            "answers": {names[port]: said for port, _, said in told},
            "page_afterwards": first,
            "pairs": rows,
            "throughput_change": spread(row["throughput_change"] for row in rows),
            "cpu_change": spread(row["cpu_change"] for row in rows),
        }
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", default=str(ROOT / "tests/fixtures/tiny-model"))
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second, both ports")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one window")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds before a window")
    parser.add_argument("--stage-cores", default="", help="as taskset takes them: 0 or 0,1")
    parser.add_argument("--other-cores", default="", help="for all others: 1 or 2,3")
    parser.add_argument("--at-most", type=float, help="fail above this loss of throughput, percent")
    parser.add_argument("--log", help="append the summary to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for i in range(100):
            png(folder / f"{i:03}.png", i)
        lines = (f"{folder}/{i % 100:03}.png\n" for i in range(options.messages))
        (folder / "list.txt").write_text("".join(lines))
        brokers = kafka("start")
        try:
            for topic in ("images", "predictions", "dead-letters"):
                kafka("tool", "TopicCommand", "--create", "--topic", topic, "--partitions", "4")
            produce = [options.binary, "produce", "--brokers", brokers, "--topic", "images"]
            subprocess.run([*produce, folder / "list.txt"], check=True, stderr=subprocess.DEVNULL)
            summary = measured(options, folder, brokers)
        finally:
            kafka("stop")
    line = json.dumps(summary)
    print(line)
    if options.log:
        with open(options.log, "a") as log:
            log.write(line + "\n")
    loss = -100 * summary["throughput_change"]["median"]
    if options.at_most is not None and loss > options.at_most:
        raise SystemExit(f"the flood costs {loss:.2f} % of the throughput")


if __name__ == "__main__":
    main()
