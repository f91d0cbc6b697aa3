"""The documentation says what the code has: commands, keys, defaults, links; and examples run."""

import doctest
import importlib
import re
from collections.abc import Iterator

import pytest
import typer
from tiny import PACKAGED

from fparec_pipeline.cli import app
from fparec_pipeline.config import Counts, Dataset, Hyperparameters, Temporal
from fparec_pipeline.config.catalogue import LOSSES, MIXERS, NETWORKS
from fparec_pipeline.config.loading import load_config
from fparec_pipeline.config.schema import StudyEntry, Variant
from fparec_pipeline.paths import CHECKOUT, DataRoot

DOCS = CHECKOUT / "docs"
WITH_EXAMPLES = (
    "config.loading",
    "models.contract",
    "models.networks",
    "results.significance",
    "training.metrics",
)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command as it is typed, with its options."""

    def walk(command, name):
        children = getattr(command, "commands", None)
        if children:
            for child, found in children.items():
                yield from walk(found, f"{name} {child}")
        else:
            options = [o for p in command.params for o in (*p.opts, *p.secondary_opts)]
            yield name, [o for o in options if o.startswith("--")]

    # Completion is typer's own.
    for name, options in walk(typer.main.get_command(app), "fparec"):
        yield name, [o for o in options if "completion" not in o]


@pytest.mark.parametrize(("name", "options"), list(commands()))
def test_every_command_and_option_is_documented(name, options):
    _, heading, rest = page("commands.md").partition(f"### `{name}`\n")
    assert heading, f"docs/commands.md has no section `{name}`"
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert not [option for option in options if f"`{option}`" not in section]


def test_no_command_is_documented_that_is_not_there():
    documented = re.findall(r"^### `(.+)`$", page("commands.md"), re.MULTILINE)
    assert set(documented) == {name for name, _ in commands()}


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """First cell without ticks → the other cells, of the table rows of a section."""
    found = {}
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("|").split("|")]
            for key in re.findall(r"`([^`]+)`", first):
                found[key] = others
    return found


def test_every_hyperparameter_is_documented_with_its_default():
    table = rows(page("models.md"), "Hyper-parameters")
    fields = Hyperparameters.model_fields
    assert not fields.keys() - table.keys()
    values = {key: field.default for key, field in fields.items()} | PACKAGED.defaults
    words = {True: "true", False: "false", None: "none"}
    for key in fields.keys() - {"mixer"}:  # every arm names one
        value = values[key]
        word = words[value] if value is None or isinstance(value, bool) else str(value)
        assert table[key][0].strip("`") == word, key


@pytest.mark.parametrize("name", [*MIXERS, *LOSSES, *NETWORKS, *PACKAGED.studies])
def test_every_part_and_study_is_named(name):
    assert f"`{name}`" in page("models.md")


def test_every_model_is_named():
    for name in PACKAGED.arms.keys() - PACKAGED.variants.keys():
        assert f"`{name}`" in page("models.md"), name


@pytest.mark.parametrize(
    ("kind", "pages"),
    [
        (Dataset, ("datasets.md", "protocols.md")),
        (Counts, ("datasets.md",)),
        (Temporal, ("protocols.md",)),
        (StudyEntry, ("models.md",)),
        (Variant, ("models.md",)),
    ],
)
def test_every_key_is_documented(kind, pages):
    text = "".join(map(page, pages))
    words = {field.alias or name for name, field in kind.model_fields.items()}
    undocumented = [word for word in words if not re.search(rf"`[^`\n]*\b{word}\b[^`\n]*`", text)]
    assert not undocumented


def test_dagsters_page_is_described():
    """Groups, checks, jobs, schedules and sensors: whatever has a name on the page."""
    from fparec_pipeline.defs.build import build_defs

    definitions = build_defs(PACKAGED)
    graph = definitions.resolve_asset_graph()
    repository = definitions.get_repository_def()
    names = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
    names |= {key.name for key in graph.asset_check_keys}
    names |= {schedule.name for schedule in repository.schedule_defs}
    names |= {sensor.name for sensor in repository.sensor_defs}
    jobs = set(repository.job_names)
    names |= {job for job in jobs if job.partition("train_")[2] not in PACKAGED.studies}
    text = page("dagster.md") + page("recommendations.md")
    assert not sorted(name for name in names if f"`{name}`" not in text and name[:2] != "__")


def test_the_examples_of_models_load(tmp_path):
    model, study = re.findall(r"```toml\n(.*?)```", page("models.md"), re.DOTALL)
    (tmp_path / "models.toml").write_text(model, encoding="utf-8")
    (tmp_path / "studies.toml").write_text(study, encoding="utf-8")
    config = load_config(DataRoot(tmp_path))
    assert config.hyperparameters("ml-1m", "fparec_wide").dropout == 0.2
    assert set(config.studies["my_rates"].arms) >= {"fparec_slow", "sasrec_fast"}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(f"fparec_pipeline.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def pages_on_github():
    return [*CHECKOUT.glob("*.md"), *DOCS.glob("*.md"), *(CHECKOUT / "benchmarks").glob("*.md")]


def test_every_link_between_files_leads_somewhere():
    missing = []
    for path in pages_on_github():
        outside = path.parent if path.name != "index.md" else CHECKOUT
        for target in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", path.read_text(encoding="utf-8")):
            places = (path.parent / target, outside / target)  # index.md is a page of the site only
            if not any(place.exists() for place in places):
                missing.append(f"{path.name}: {target}")
    assert not missing


def test_the_readme_stays_short():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
