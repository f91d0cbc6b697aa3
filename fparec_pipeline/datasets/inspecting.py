"""What a dataset's raw file holds, section by section, without splitting or training.

What belongs here: what a newcomer wants to know of an own file before the first run. Each section
is a function of an `Inspection`; `SECTIONS` has them in order. A section more is a function more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from fparec_pipeline.config import Dataset, OwnSource, TimedSource
from fparec_pipeline.datasets.audit import audit, sentences
from fparec_pipeline.datasets.collecting import Interactions, collect
from fparec_pipeline.datasets.notes import repetitions as notes_on_repetitions
from fparec_pipeline.datasets.preprocess import Sequences, k_core, numbered, own_ids, repetitions
from fparec_pipeline.datasets.sources import RawFile, fetch_raw, raw_files
from fparec_pipeline.datasets.splits import in_range
from fparec_pipeline.paths import DataRoot

CORES = (1, 2, 3, 5, 10)
SHOWN_ROWS = 5
SHOWN_ITEMS = 8


@dataclass(frozen=True)
class Section:
    """A heading with labelled values, a small table, or both; all text, to be shown as it is."""

    title: str
    values: list[tuple[str, str]] = field(default_factory=list)
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Inspection:
    """A raw file that was read."""

    name: str
    dataset: Dataset
    path: Path
    files: list[RawFile]
    found: Interactions  # all well-formed rows
    table: pl.DataFrame  # those in the date range, without what the entry drops
    dropped: dict[str, int]  # how many rows each key `drop_…` has dropped
    sequences: Sequences  # of the table's core, numbered and ordered
    quarantine: Path


def inspect(name: str, dataset: Dataset, data: DataRoot) -> list[Section]:
    """Reads the dataset's raw file, fetching it if need be, and says what is in it.

    Rows that are set aside go to `quarantine.parquet` in `data.raw(name)`, as in a run.

    Raises:
        RawDataError: the file cannot be had or read, as in a run.
        SplitsError: a published file's ids have gaps.
    """
    path = fetch_raw(name, dataset, data)
    files = raw_files(path)
    quarantine = data.raw(name) / "quarantine.parquet"
    quarantine.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=quarantine.parent, prefix=".unpacked-") as scratch:
        found = collect(f"{name}: {path}", files, dataset.active_source, Path(scratch), quarantine)
    table, dropped = in_range(dataset, found)
    if found.unit is None:
        sequences = own_ids(name, table)
    else:
        sequences = numbered(k_core(table, dataset.core))
    inspection = Inspection(
        name, dataset, path, files, found, table, dropped, sequences, quarantine
    )
    return [section for make in SECTIONS if (section := make(inspection))]


def file(inspection: Inspection) -> Section:
    """Where the data lie and which columns are read."""
    source, files = inspection.dataset.active_source, inspection.files
    size = sum(one.path.stat().st_size for one in files)
    values = [
        ("path", str(inspection.path)),
        ("size", f"{size:,} bytes" + (f" in {len(files):,} files" if len(files) > 1 else "")),
        ("reader", source.reader),
    ]
    if isinstance(source, OwnSource):
        values.append(("columns", f"user {source.user}, item {source.item}, time {source.time}"))
    return Section("File", values)


def rows(inspection: Inspection) -> Section:
    """How many rows there are, and what becomes of them."""
    found = inspection.found
    values = [("rows", f"{found.rows:,}"), ("set aside", f"{found.set_aside:,}")]
    values += [(f"  {problem}", f"{count:,}") for problem, count in found.problems.items()]
    if found.set_aside:
        values.append(("  they are in", str(inspection.quarantine)))
    values += [
        ("interactions", f"{found.table.height:,}"),
        ("users", f"{found.table['user'].n_unique():,}"),
        ("items", f"{found.table['item'].n_unique():,}"),
    ]
    source = inspection.dataset.active_source
    if isinstance(source, TimedSource) and (source.from_date or source.to_date):
        within = inspection.table.height + sum(inspection.dropped.values())
        between = f"{source.from_date or '…'} to {source.to_date or '…'}"
        values.append((f"from {between}", f"{within:,}"))
    values += [(key.replace("_", " "), f"{count:,}") for key, count in inspection.dropped.items()]
    return Section("Rows", values)


def times(inspection: Inspection) -> Section:
    """The unit of the times, their span and their ties."""
    found, tied = inspection.found, repetitions(inspection.sequences.rows)
    if found.unit is None or not found.table.height:
        return Section("Times", [("times", "none: the file has an order of its own")])
    first, last = (found.unit.moment(time) for time in found.span)
    share = tied["tied_interactions"] / max(1, inspection.sequences.rows.height)
    source = inspection.dataset.active_source
    shuffled = isinstance(source, TimedSource) and source.shuffle_ties
    order = "their order is drawn" if shuffled else "they keep the order of the file"
    return Section(
        "Times",
        [
            ("read as", found.unit.words),
            ("first", first),
            ("last", last),
            (
                "ties",
                f"{tied['tied_interactions']:,} interactions ({share:.1%}) share their time with "
                f"another of the user's; {order}",
            ),
        ],
    )


def repeated(inspection: Inspection) -> Section:
    """Interactions that repeat others."""
    interactions = inspection.sequences.rows.height
    counted = repetitions(inspection.sequences.rows)
    names = {
        "duplicate_interactions": "exact duplicates",
        "consecutive_repeats": "same item twice in a row",
    }
    values = [
        (label, f"{counted[key]:,} ({counted[key] / max(1, interactions):.1%})")
        for key, label in names.items()
        if key in counted
    ]
    stats = {"dataset": inspection.name, "interactions": interactions, **counted}
    values += [("warning", note) for note in notes_on_repetitions(stats)]
    return Section("Repetitions", values)


def core(inspection: Inspection) -> Section | None:
    """What the k-core leaves, for the configured core and others."""
    if inspection.found.unit is None:
        return None
    chosen = inspection.dataset.core
    lines = []
    for size in sorted({*CORES, chosen}):
        left = k_core(inspection.table, size)
        counts = (left["user"].n_unique(), left["item"].n_unique(), left.height)
        mark = f"{size} (chosen)" if size == chosen else str(size)
        lines.append((mark, *(f"{count:,}" for count in counts)))
    header = ("core", "users", "items", "interactions")
    return Section("What each core leaves", header=header, rows=lines)


def trust(inspection: Inspection) -> Section | None:
    """What decides how far results on the core can be trusted (`audit`)."""
    rows, unit = inspection.sequences.rows, inspection.found.unit
    if rows.is_empty():
        return None
    found = audit(rows, None if unit is None else unit.name)
    title = f"How far results can be trusted (core {inspection.dataset.core})"
    return Section(title, sentences(found))


def sample(inspection: Inspection) -> Section:
    """The first interactions as they were understood, and the first user's sequence."""
    unit, names = inspection.found.unit, inspection.sequences
    lines = [
        tuple(
            unit.moment(value) if column == "time" and unit else str(value)
            for column, value in row.items()
        )
        for row in inspection.found.table.head(SHOWN_ROWS).iter_rows(named=True)
    ]
    values = []
    if names.rows.height:
        own = names.rows.filter(pl.col("user") == 1)["item"]
        items = [names.item_names[item - 1] for item in own.head(SHOWN_ITEMS)]
        more = f", … ({own.len():,} in all)" if own.len() > SHOWN_ITEMS else ""
        values = [(f"user {names.user_names[0]}, in order of time", ", ".join(items) + more)]
    return Section("Sample", values, inspection.found.table.columns, lines)


SECTIONS: list[Callable[[Inspection], Section | None]] = [
    file,
    rows,
    times,
    repeated,
    core,
    trust,
    sample,
]
