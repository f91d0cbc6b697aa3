"""The faults that the pipeline must survive, and the page that shows how often it was tested.

`FAULTS` names each fault and what is expected. A test in any file that injects it is marked
`fault("<key>")`. `make reliability` runs these tests and writes docs/reliability.md.
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
        "final weights, ranks and metrics are bit for bit those of an undisturbed run; no "
        "half-written file is read",
    ),
    "soak": (
        "200 tiny trials on two workers that are killed at random moments",
        "200 results, each equal to that of an undisturbed run; none twice, none lost",
    ),
    "parent": (
        "`kill -9` of the parent of `fparec run --jobs 2`",
        "no orphaned process continues; the next call marks what MLflow and Dagster show as "
        "running as ended, and resumes",
    ),
    "engine": (
        "a run's process is killed; two processes launch the same run; another process cancels a "
        "run; the command that works off the queue is killed; a daemon already works it off; two "
        "data roots share one Dagster database",
        "the run fails with one line and the others continue; the run is started once; it ends and "
        "says so; another command works off the queue; the daemon starts the runs; runs of the "
        "other data root are left alone",
    ),
    "cluster": (
        "on a Ray cluster of two nodes: `kill -9` of a trial's process, Ctrl-C of the command, "
        "`kill -9` of a node's raylet",
        "the trial is resumed and finishes; lock and slot are free and MLflow says KILLED; the "
        "orphaned process and the new run never both write the trial",
    ),
    "cancelled": (
        "a run is cancelled in Dagster's page",
        "training stops within seconds, lock and slot are free, MLflow says KILLED",
    ),
    "disk": (
        "the disk is full during download, splits, checkpoint, or MLflow's write",
        "a clear error names the path; earlier results are intact; it works once there is space "
        "again",
    ),
    "download": (
        "a download that is cut short, has wrong bytes, answers HTTP 500, redirects to another "
        "host, stalls, or never ends",
        "never accepted: tried again, or refused with the reason; the old file stays",
    ),
    "archive": (
        "zip members with `../` or absolute paths, zip and gzip bombs, garbage, truncation",
        "refused, nothing written outside",
    ),
    "rows": (
        "malformed rows, and files that contain no data",
        "rows are counted and set aside, or there is a clear error; never a traceback from inside "
        "Polars, never a silently smaller dataset",
    ),
    "mlflow": (
        "MLflow is out of reach at the start, in the middle, at the end; SQLite is locked by "
        "another writer; eight trials log at once",
        "training continues, nothing is lost, `fparec sync` completes MLflow",
    ),
    "same": (
        "two processes are asked to train the same trial",
        "one trains, the other waits or says so; there is one result",
    ),
    "bits": (
        "flipped bits in a checkpoint, in splits, in a trial's files",
        "the checksum finds them and the file is named; never a wrong number in a table",
    ),
    "configuration": (
        "a configuration with unknown keys, wrong types, n = 0, k > n, or unknown names",
        "an error names the file, the key, what is allowed and the nearest match",
    ),
    "diverged": (
        "the loss becomes NaN",
        "the trial fails and names epoch and model; the others continue",
    ),
    "memory": (
        "memory runs out on the GPU (tested on a CPU by limiting the process's address space; "
        "never on CUDA)",
        "the first time, the block size is halved, which is printed and recorded, and training "
        "continues from the last checkpoint; the second time, the trial fails and names epoch and "
        "model; the others continue",
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
    """Fault, what is expected, and its tests, as the page shows them."""
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
