"""Nobody is let in, and nothing gets out: pickles, passwords, file modes, and strings as markup."""

import ast
import html.parser
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from data_roots import tiny_root
from markdown_it import MarkdownIt
from trial_folders import make_attempt, write_finished

import fparec_pipeline
from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results import leaderboard
from fparec_pipeline.results.paper_figures import FigureMissing
from fparec_pipeline.results.report import build_report
from fparec_pipeline.results.study_table import leaderboard_markdown
from fparec_pipeline.results.tables import render
from fparec_pipeline.results.trials import trials_frame

PACKAGE = Path(fparec_pipeline.__file__).parent
COMMAND = str(Path(sys.executable).with_name("fparec"))

# What runs code that a file or an answer holds.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "np.load", "pd.read_pickle", "shutil.unpack_archive"}
UNSAFE_METHODS = {"extract", "extractall"}


def unsafe(tree):
    """The imports and calls of a module that could run what a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            names.add((getattr(node, "module", None) or "").partition(".")[0])
            yield from names & UNSAFE_MODULES
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS or called.rpartition(".")[2] in UNSAFE_METHODS:
                yield called


def test_one_checked_pickle_is_opened_and_nothing_else_that_runs_code():
    found = {
        (path.name, name)
        for path in PACKAGE.rglob("*.py")
        for name in unsafe(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == {("sources.py", "pd.read_pickle")}


def test_the_linter_looks_for_insecure_code_in_the_whole_package():
    lint = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("S") and rule[1:].isdigit()]
    assert list(lint["per-file-ignores"]) == ["tests/**"]


# Passwords and file modes

SECRET = "s3cret"  # noqa: S105


def fparec(root, *arguments, umask=0o022, **environment):
    return subprocess.run(
        [COMMAND, *arguments],
        env=os.environ | {"FPAREC_DATA": str(root), "COLUMNS": "200"} | environment,
        umask=umask,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A whole run whose umask keeps others out, with a password in MLflow's address."""
    data = tiny_root(tmp_path_factory.mktemp("private") / "data", epochs=1)
    uri = f"http://me:{SECRET}@127.0.0.1:9"  # nothing listens on the discard port
    options = ("run", "--datasets", "tiny", "--models", "fparec", "--seeds", "0")
    return data, fparec(data.root, *options, umask=0o077, MLFLOW_TRACKING_URI=uri)


def test_the_password_of_the_tracking_store_is_neither_said_nor_written(private):
    data, result = private
    assert result.returncode == 0, result.stderr
    assert "http://me:***@127.0.0.1:9" in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr
    written = [path for path in data.root.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def test_no_file_or_folder_is_open_to_more_than_the_umask_says(private):
    data, _ = private
    own = {"tiny.csv", "datasets.toml", "studies.toml"}  # written by the test
    made = [path for path in data.root.rglob("*") if path.name not in own]
    assert {
        f"{path.stat().st_mode & 0o077:o} {path}" for path in made if path.stat().st_mode & 0o077
    } == set()


def test_others_may_read_what_the_umask_lets_them_read_and_write_nothing(tmp_path):
    data = tiny_root(tmp_path / "data")
    script = (
        "import sys; from pathlib import Path\n"
        "from fparec_pipeline.config import load_config\n"
        "from fparec_pipeline.datasets.sources import fetch_raw\n"
        "from fparec_pipeline.datasets.splits import make_splits\n"
        "from fparec_pipeline.paths import DataRoot\n"
        "data = DataRoot(Path(sys.argv[1])); dataset = load_config(data).datasets['tiny']\n"
        "make_splits('tiny', dataset, fetch_raw('tiny', dataset, data), data)\n"
        "small = load_config(data).datasets['ml-latest-small']\n"
        "fetch_raw('ml-latest-small', small, data)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(data.root)], check=True, umask=0o022)
    files = [path for path in (data.root / "raw").rglob("*") if path.is_file()]
    files += data.splits("tiny").rglob("*")
    assert {"inputs.json", "stats.json", "train.parquet"} <= {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


# Errors of the file system


@pytest.mark.parametrize("command", ["status", "report", "run", "sync"])
def test_a_data_root_that_is_a_file_is_one_clear_line(command, tmp_path):
    root = tmp_path / "root"
    root.write_text("")
    result = fparec(root, command)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert str(root) in last


def test_a_root_that_nobody_may_write_and_a_file_that_cannot_be_read_are_clear_lines(tmp_path):
    nowhere = fparec("/proc/fparec", "report")  # not even by root
    (tmp_path / "datasets.toml").mkdir()
    unreadable = fparec(tmp_path, "status")
    for result, path in ((nowhere, "/proc/fparec"), (unreadable, tmp_path / "datasets.toml")):
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert str(path) in result.stderr.strip().splitlines()[-1]


# Strings as markup

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>|`x`[a](javascript:alert(3))\"'&*_"


@pytest.fixture
def evil(tmp_path):
    """A data root in which every title and all that a record says is markup."""
    text = EVIL.replace("\\", "\\\\").replace('"', '\\"')
    (tmp_path / "datasets.toml").write_text(f'[ml-1m]\ntitle = "{text}"\nlicence = "{text}"\n')
    (tmp_path / "models.toml").write_text(f'[fparec]\ntitle = "{text}"\n')
    (tmp_path / "studies.toml").write_text(f'[table_3]\ntitle = "{text}"\n')
    data = DataRoot(tmp_path)
    config = load_config(data)
    for seed in range(3):
        words = {"hardware": EVIL, "commit": EVIL, "device": EVIL}
        write_finished(data, make_attempt(config, "ml-1m", "fparec", seed, **words))
    return data


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def harmless(page, scripts):
    """Its elements, none of which runs what a string holds."""
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == scripts
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            address = attributes.get(name) or ""
            assert address.startswith(("data:", "http://", "https://", "#")) or not address
    return elements


def test_the_report_shows_every_string_as_text(evil, monkeypatch):
    def missing(*arguments):  # the folders' weights are of no model
        raise FigureMissing(EVIL)

    monkeypatch.setattr("fparec_pipeline.results.report.draw", missing)
    config = load_config(evil)
    attempt = make_attempt(config, "ml-1m", "fparec", 0).attempt
    links = {attempt: "javascript:alert(4)"}
    page = build_report(trials_frame(evil, config), evil, config, links).html
    elements = harmless(page, scripts=1)  # its own, which sorts tables
    assert elements.text.count("<script>alert(1)</script>") >= 10
    assert "alert(4)" not in page


@pytest.mark.parametrize("name", ["table_3", "table_5", "sequence_length", "leaderboard"])
def test_markdown_shows_every_string_as_text_in_its_cell(name, evil):
    config = load_config(evil)
    if name == "leaderboard":
        markdown = leaderboard_markdown(
            leaderboard("ml-1m", data=evil).to_dicts(), config.titles_on("ml-1m")
        )
    else:
        markdown, _ = render(name, trials_frame(evil, config), config, evil)
    elements = harmless(
        MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown), 0
    )
    assert " ".join(EVIL.split()) in elements.text
    assert not [tag for tag, _ in elements.found if tag in ("a", "img", "em", "code")]
    # HTML has as many cells as the header, whatever a row has: the bars of the text tell.
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
