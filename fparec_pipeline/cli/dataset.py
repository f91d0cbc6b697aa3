"""`fparec dataset check` and `add`: a file of your own, before the first run.

Here belong the questions and what is printed. Guessing and reading a file belong to `datasets/`.
"""

import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fparec_pipeline.cli.shared import app, console
from fparec_pipeline.config import (
    DATASET_NAME,
    Config,
    ConfigError,
    Dataset,
    is_name,
    known,
    load_config,
    parse,
)
from fparec_pipeline.paths import DataRoot

if TYPE_CHECKING:
    from fparec_pipeline.datasets.inspecting import Section

dataset = typer.Typer(
    no_args_is_help=True, help="Your own data: add a file, or check what is in it."
)
app.add_typer(dataset, name="dataset")


@dataset.command()
def check(name: Annotated[str, typer.Argument(help="A dataset in datasets.toml.")]) -> None:
    """Show what is in a dataset's file, without training.

    Rows, users and items; the unit and the span of the times; what is set aside and why;
    duplicates; what each core leaves; a sample. Run it before training on a new file.

    Example: fparec dataset check orders
    """
    data = DataRoot.default().writable()
    config = load_config(data)
    known(name, config.datasets, "dataset")
    _check(name, config, data)


@dataset.command()
def add(
    file: Annotated[Path, typer.Argument(help="A CSV or parquet file, or a folder of them.")],
    name: Annotated[
        str | None, typer.Option(help="The dataset's name; default: the file's.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="The column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="The column of items.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of times.")] = None,
    separator: Annotated[
        str | None, typer.Option(help="The separator between fields; default: found.")
    ] = None,
    core: Annotated[
        int, typer.Option(min=1, help="Users and items with fewer interactions are removed.")
    ] = 5,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the guesses without asking.")] = False,
) -> None:
    """Add your own file to datasets.toml, and check it.

    What you do not give is guessed from the file's first lines, and you are asked. With --yes, or
    without a terminal, the guesses are taken.

    Example: fparec dataset add /exports/orders.csv --user customer --item sku --time ordered_at
    """
    from fparec_pipeline.datasets.guessing import guessed

    data = DataRoot.default().writable()
    config = load_config(data)
    path = Path(os.path.abspath(file.expanduser()))  # noqa: PTH100, a link may name another tomorrow
    if not path.exists():
        raise ConfigError(f"There is no file {path}.")
    if not str(path).isprintable():  # of bytes that are no UTF-8, or with a line break
        raise ConfigError(f"{str(path)!r} cannot stand in datasets.toml. Rename it.")
    keys = guessed(path, separator and separator.replace("\\t", "\t"))
    columns = keys.pop("columns")
    ask = sys.stdin.isatty() and not yes
    for key, given in {"user": user, "item": item, "time": time}.items():
        keys[key] = _column(key, given, keys.get(key), columns, ask)
    called = _name(name or re.sub(r"[^A-Za-z0-9_]+", "-", path.stem).strip("-"), config)
    inside = path.is_relative_to(data.root)
    keys["address"] = str(path.relative_to(data.root) if inside else path)
    entry = _entry(called, core, keys)
    parse(Dataset, tomllib.loads(entry)[called], f"[{called}]")  # before others must read it
    _append((data.root / "datasets.toml").resolve(), entry)  # the file, where that is a link
    console.print(f"Written to {data.root / 'datasets.toml'}:", highlight=False, soft_wrap=True)
    console.print(entry, markup=False, highlight=False, soft_wrap=True)
    _check(called, load_config(data), data)
    console.print(
        "If fparec dev is running:  show it there with Deployment, Reload definitions.",
        highlight=False,
        soft_wrap=True,
    )


def _column(key: str, given: str | None, guess: str | None, columns: list[str], ask: bool) -> str:
    """The column that is `key`: as an option says, else as asked, else as guessed.

    Raises:
        ConfigError: there is no such column, or nothing tells.
    """
    if given is not None:
        return known(given, columns, "column")
    if ask:
        console.print(f"Columns: {escape(', '.join(columns))}", highlight=False)
        answer: str = typer.prompt(f"Which is the {key}?", default=guess)
        return known(answer, columns, "column")
    if guess is None:
        raise ConfigError(
            f"Cannot guess which column is the {key}. Name it with --{key}; the columns are: "
            f"{', '.join(columns)}."
        )
    return guess


def _name(name: str, config: Config) -> str:
    if name in config.datasets:
        raise ConfigError(
            f"There is a dataset {name!r} already: give another --name, or write what you want to "
            "change into an entry of that name in datasets.toml."
        )
    if not is_name(name, DATASET_NAME):
        raise ConfigError(f"{name!r} cannot be a name; give --name with letters, digits, _, - or .")
    return name


def _entry(name: str, core: int, keys: dict[str, Any]) -> str:
    """The entry as TOML, whose strings are written as JSON's are."""
    order = ("reader", "address", "separator", "user", "item", "time")
    table = f'"{name}"' if "." in name else name
    lines = [f"[{table}]", f"core = {core}", f"[{table}.sources.own]"]
    lines += [
        f"{key} = {json.dumps(keys[key], ensure_ascii=False)}" for key in order if key in keys
    ]
    return "\n".join(lines) + "\n"


def _append(path: Path, entry: str) -> None:
    from fparec_pipeline.datasets.files import write_atomically

    before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    between = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    with write_atomically(path) as part:
        part.write_text(before + between + entry, encoding="utf-8")


def _check(name: str, config: Config, data: DataRoot) -> None:
    from fparec_pipeline.datasets.inspecting import inspect

    with console.status(f"{name}: reading"):
        sections = inspect(name, config.datasets[name], data)
    for section in sections:
        _print(section)
    _audit_splits(name, data)
    console.print(
        f"\nTrain on it:  fparec run --datasets {name} --models fparec,sasrec --seeds 0",
        highlight=False,
        soft_wrap=True,
    )


def _audit_splits(name: str, data: DataRoot) -> None:
    """How much the order of the splits on disk says, where there are some; the report shows it."""
    from fparec_pipeline.datasets.audit import sentences
    from fparec_pipeline.datasets.inspecting import Section
    from fparec_pipeline.training.sequential import keep_audit

    folder = data.splits(name)
    if not (folder / "stats.json").exists():
        return
    with console.status(f"{name}: the order of the splits"):
        found = dict(sentences(keep_audit(folder)))
    _print(Section("The splits on disk", [("order", found["order"])]))


def _print(section: "Section") -> None:
    console.print(f"\n[bold]{escape(section.title)}[/]")
    if section.values:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in section.values:
            grid.add_row(f"  {escape(label)}", escape(value))
        console.print(grid, highlight=False)
    if section.rows:
        table = Table(*map(escape, section.header), box=None, padding=(0, 2))
        for row in section.rows:
            table.add_row(*map(escape, row))
        console.print(table, highlight=False)
