"""A load test of `fparec serve` on loopback, bad requests among the good ones.

    FPAREC_DATA=ROOT python benchmarks/serving.py DATASET [--requests 10000] [--clients 4]

DATASET has a champion in ROOT (`fparec promote`). Starts the server, sends the requests from
`--clients` threads of this process, each over a connection that it keeps, and prints requests a
second, the latency's quantiles and the server's memory. Ends with status 1 where an answer has
another status than it should. Requests are drawn by a seed: histories of 1 to 50 items, every
twentieth without one, every tenth wrong.
"""

import http.client
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench import console, cpu_marks, machine, others_share
from rich.progress import track
from rich.table import Table

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.servers import HOST
from fparec_pipeline.serving.champion import load_champion

RESULTS = Path(__file__).parent / "results" / "serving.json"
MAIN = "from fparec_pipeline.cli import main; main()"
WARM_UP = 100
START_SECONDS = 120
BAD: tuple[Any, ...] = (
    {"dataframe_records": [{"history": "no list"}]},
    {"dataframe_records": [{"history": [1.5]}]},
    {"dataframe_records": [{"history": []}], "params": {"k": 0}},
    {"dataframe_records": [{"history": []}], "params": {"k": "many"}},
    {"dataframe_records": [{"past": []}]},
    {"what": 1},
    "{no json",
)
MIB = 1 << 20


@dataclass(frozen=True)
class Answered:
    """One request and what came of it."""

    status: int
    expected: int
    seconds: float


def drawn(names: list[str], count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Bodies, and the status that each should get."""
    draw = np.random.default_rng(seed)
    found = []
    for place in range(count):
        if place % 10 == 9:
            body: Any = BAD[int(draw.integers(len(BAD)))]
            found.append((body if isinstance(body, str) else json.dumps(body), 400))
            continue
        length = 0 if place % 20 == 4 else int(draw.integers(1, 51))
        history = [names[i] for i in draw.integers(len(names), size=length)]
        records = {"dataframe_records": [{"history": history}], "params": {"k": 10}}
        found.append((json.dumps(records), 200))
    return found


def send(port: int, bodies: list[tuple[str, int]], clients: int, words: str) -> list[Answered]:
    """All requests, by `clients` threads."""
    todo: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for body in bodies:
        todo.put(body)
    answered: queue.SimpleQueue[Answered] = queue.SimpleQueue()
    for _ in range(clients):
        threading.Thread(target=_client, args=(port, todo, answered), daemon=True).start()
    counted = track(range(len(bodies)), words, console=console)
    return [answered.get(timeout=START_SECONDS) for _ in counted]


def _client(port: int, todo: "queue.SimpleQueue[Any]", done: "queue.SimpleQueue[Any]") -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    headers = {"Content-Type": "application/json"}
    while True:
        try:
            body, expected = todo.get_nowait()
        except queue.Empty:
            return
        started = time.perf_counter()
        connection.request("POST", "/invocations", body, headers)
        response = connection.getresponse()
        response.read()
        done.put(Answered(response.status, expected, time.perf_counter() - started))


def resident(pid: int) -> int:
    """Bytes that a process and its children hold, all of them together. Linux only."""
    total = int((Path("/proc") / str(pid) / "statm").read_text().split()[1])
    total *= os.sysconf("SC_PAGE_SIZE")
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        total += sum(resident(int(child)) for child in (task / "children").read_text().split())
    return total


def wait_for(server: "subprocess.Popen[bytes]", port: int) -> float:
    """Seconds until the server answers."""
    started = time.perf_counter()
    while time.perf_counter() - started < START_SECONDS:
        if server.poll() is not None:
            raise SystemExit("the server ended before it answered")
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=5)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return time.perf_counter() - started
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the server did not answer within {START_SECONDS} s")


def main(
    dataset: str,
    requests: Annotated[int, typer.Option(min=1)] = 10_000,
    clients: Annotated[int, typer.Option(min=1, help="Threads that ask at once.")] = 4,
    port: int = 5091,
) -> None:
    """A load test of `fparec serve`."""
    names = load_champion(dataset, DataRoot.default()).names.to_list()
    marks = cpu_marks()
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", MAIN, "serve", dataset, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        up = wait_for(server, port)
        send(port, drawn(names, WARM_UP, seed=1), clients, "warming up")
        before = resident(server.pid)
        started = time.perf_counter()
        answered = send(port, drawn(names, requests), clients, "requests")
        seconds = time.perf_counter() - started
        after = resident(server.pid)
        asked_to_end = time.perf_counter()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    ended = time.perf_counter() - asked_to_end
    good = sorted(a.seconds * 1e3 for a in answered if a.expected == 200)
    bad = sorted(a.seconds * 1e3 for a in answered if a.expected == 400)
    wrong = Counter((a.expected, a.status) for a in answered if a.status != a.expected)
    result = {
        "dataset": dataset,
        "items": len(names),
        "requests": requests,
        "bad": len(bad),
        "clients": clients,
        "requests_per_second": requests / seconds,
        "good_ms": _quantiles(good),
        "bad_ms": _quantiles(bad),
        "wrong": {f"{status} instead of {wanted}": n for (wanted, status), n in wrong.items()},
        "mib_before": before / MIB,
        "mib_after": after / MIB,
        "seconds_to_start": up,
        "seconds_to_end": ended,
        "machine": machine() | {"other_processes_share": others_share(marks)},
    }
    console.print(table_of(result))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    raise typer.Exit(1 if wrong else 0)


def _quantiles(sorted_ms: list[float]) -> dict[str, float]:
    if len(sorted_ms) < 2:
        return {}
    cuts = statistics.quantiles(sorted_ms, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": sorted_ms[-1]}


def table_of(result: dict[str, Any]) -> Table:
    """What was measured."""
    table = Table(title=f"fparec serve {result['dataset']}, {result['items']:,} items")
    table.add_column("")
    table.add_column("measured", justify="right")
    rows = {
        "requests": f"{result['requests']:,}, {result['bad']:,} of them wrong",
        "clients at once": str(result["clients"]),
        "requests a second": f"{result['requests_per_second']:,.0f}",
        "good requests": _words(result["good_ms"]),
        "wrong requests": _words(result["bad_ms"]),
        "answers with another status": str(sum(result["wrong"].values())),
        "memory of the server's processes": f"{result['mib_before']:,.0f} MiB after "
        f"{WARM_UP} requests, {result['mib_after']:,.0f} at the end",
        "until it answers": f"{result['seconds_to_start']:.1f} s",
        "from Ctrl-C to its end": f"{result['seconds_to_end']:.1f} s",
    }
    for row in rows.items():
        table.add_row(*row)
    if (noise := result["machine"]["other_processes_share"]) is not None:
        # The server is one of the others.
        table.caption = f"{noise:.0%} of the CPUs' time went to the server and other processes"
    return table


def _words(ms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} ms" for name, value in ms.items())


if __name__ == "__main__":
    typer.run(main)
