"""What the pipeline is to survive, and the page that says with how many injected faults it did.

`FAULTS` names what must hold. A test that injects such a fault is marked `fault("<key>")`, wherever
it stands. `make reliability` runs them all and writes docs/reliability.md from what happened.
"""

import ast
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
HEADER = "| fault | what must hold | tests | faults injected | outcome |"

FAULTS = {
    "killed": (
        "`kill -9` of a training process, then the same command again",
        "the final weights, ranks and metrics are those of an undisturbed run, bit by bit; no "
        "half-written file is read",
    ),
    "soak": (
        "200 tiny trials on two workers, which are killed at random moments",
        "200 results, each the undisturbed one; none twice, none lost",
    ),
    "parent": (
        "`kill -9` of the parent of `fparec run --jobs 2`",
        "no orphan trains on; the next call settles what MLflow and Dagster show as running, and "
        "resumes",
    ),
    "engine": (
        "a run's process is killed; two processes launch one run; another process cancels a run; "
        "the command that serves the queue is killed; a daemon serves it already; two data roots "
        "share one Dagster database",
        "the run fails in one line and the others go on; it is started once; it ends and says so; "
        "another command goes on serving the queue; the daemon starts the runs; nobody settles a "
        "run of the other data root",
    ),
    "cluster": (
        "on a Ray cluster of two nodes: `kill -9` of a trial's process, Ctrl-C of the command, "
        "`kill -9` of a node's raylet",
        "the trial is resumed and ends; lock and slot are free and MLflow says KILLED; the orphan "
        "and its successor never write one trial both",
    ),
    "cancelled": (
        "a run is cancelled in Dagster's page",
        "training stops within seconds, the lock and the pool's slot are free, MLflow says KILLED",
    ),
    "disk": (
        "the disk is full during download, splits, checkpoint, or MLflow's write",
        "a clear error that names the path; earlier results are intact; it works once there is "
        "space",
    ),
    "download": (
        "an answer cut short, wrong bytes, HTTP 500, a redirect to another host, a stalled server, "
        "an endless answer",
        "never accepted; tried again or refused with the reason; the old file stays",
    ),
    "archive": (
        "zip members with `../` or absolute paths, zip and gzip bombs, garbage, truncation",
        "refused, nothing written outside",
    ),
    "rows": (
        "malformed rows and files that are no data",
        "counted and set aside, or a clear error; never a traceback from inside Polars, never a "
        "silently smaller dataset",
    ),
    "mlflow": (
        "MLflow out of reach at the start, in the middle, at the end; SQLite locked by another "
        "writer; eight trials at once",
        "training goes on, nothing is lost, `fparec sync` completes it",
    ),
    "same": (
        "two processes are asked for the same trial",
        "one trains, the other waits or says so; one result",
    ),
    "bits": (
        "flipped bits in checkpoint, splits, and a trial's files",
        "found by checksum and named; never a wrong number in a table",
    ),
    "configuration": (
        "unknown keys, wrong types, n = 0, k > n, names that are not there",
        "an error that names the file, the key, what is allowed and the nearest match",
    ),
    "diverged": (
        "the loss becomes NaN",
        "the trial fails with its epoch and arm; the others go on",
    ),
    "memory": (
        "memory runs out on the GPU (shown on a CPU, whose allocator fails at a limit of the "
        "process's address space; never run on CUDA)",
        "the block size is halved once, said and recorded, and training goes on from the last "
        "checkpoint; a second time the trial fails with its epoch and arm; the others go on",
    ),
}


def fault_tests() -> dict[str, list[str]]:
    """The marked tests of each fault, as `file::function`, read from the sources."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for key in map(_fault, node.decorator_list):
                    if key:
                        found[key].append(f"{path.relative_to(TESTS)}::{node.name}")
    return dict(found)


def _fault(decorator: ast.expr) -> str | None:
    called = isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault"
    return ast.literal_eval(decorator.args[0]) if called else None


def rows() -> list[tuple[str, str, str]]:
    """Fault, what must hold, and its tests, as the page shows them."""
    tests = fault_tests()
    return [
        (*FAULTS[key], "<br>".join(f"`{name}`" for name in tests.get(key, [])) or "none yet")
        for key in FAULTS
    ]


def page_rows() -> list[tuple[str, str, str]]:
    """The same three columns as they stand in the page."""
    lines = PAGE.read_text().split(HEADER)[1].strip().splitlines()[1:]
    table = [line for line in lines if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("| ").split(" | ")[:3]) for line in table]


class Collector:
    """A pytest plugin that writes the page from the tests' outcomes."""

    def __init__(self) -> None:
        self.injected: dict[str, int] = defaultdict(int)
        self.outcomes: dict[str, list[bool]] = defaultdict(list)
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        if report.when == "teardown":
            told = dict(report.user_properties)
            if key := told.get("fault"):
                self.injected[key] += told.get("harms", 1)
                self.outcomes[key].append(report.nodeid not in self.failed)

    def pytest_sessionfinish(self, session) -> None:
        lines = [HEADER, "| --- | --- | --- | ---: | --- |"]
        for key, (fault, must, tests) in zip(FAULTS, rows(), strict=True):
            passed, of = sum(self.outcomes[key]), len(self.outcomes[key])
            outcome = f"held ({of} of {of} tests)" if passed == of else f"**{passed} of {of}**"
            if not of:
                outcome = "**not shown**"
            lines.append(f"| {fault} | {must} | {tests} | {self.injected[key]} | {outcome} |")
        start = PAGE.read_text().split(HEADER)[0]
        PAGE.write_text(start + "\n".join(lines) + "\n")
