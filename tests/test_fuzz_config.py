"""Configuration files that were drawn: either they load, or the error names the file."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fparec_pipeline.config import SOURCE_KINDS, ConfigError, Dataset, load_config
from fparec_pipeline.paths import DataRoot

ENTRIES = {
    "datasets": ["beauty", "mine", "../up", "a|b", ""],
    "models": ["defaults", "fparec", "sasrec", "mine", "../up", "a|b", ""],
    "studies": ["table_3", "table_5", "benchmark", "mine", "../up", "a|b", ""],
}
SOURCE_KEYS = {key for kind in SOURCE_KINDS.values() for key in kind.model_fields}
KEYS = [
    *Dataset.model_fields,
    *sorted(SOURCE_KEYS),
    "n",
    "d",
    "k",
    "mixer",
    "loss",
    "on",
    "toys",
]
KEYS += ["published", "models", "datasets", "seeds", "variants", "wide", "learning_rate", ""]

plain = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["csv", "beauty", "fparec", "raw", "positional", "2020-01-01", "<b>"]),
    st.integers(0, 60),
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


def toml(value):
    """The value as inline TOML, whose texts are those of JSON but for one character."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value).replace("\x7f", "\\u007f")


@st.composite
def overlays(draw):
    """File -> its text: one entry each, with a few keys."""
    return {
        f"{file}.toml": "".join(
            f"{toml(name)} = {toml(draw(values))}\n"
            for name in draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
        )
        for file, names in ENTRIES.items()
    }


@pytest.mark.fault("configuration")
@given(texts=overlays())
@settings(max_examples=150)
def test_drawn_tables_load_or_are_a_clear_error(texts):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            config = load_config(DataRoot(Path(folder)))
        except ConfigError as error:
            assert any(name in str(error) for name in texts)
        else:
            assert config.trials(["beauty"], ["sasrec"], [0])


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("file", ["datasets.toml", "models.toml", "studies.toml"])
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet='[]{}="\n.,abn1 ', max_size=40).map(str.encode)
)
@settings(max_examples=40)
def test_drawn_bytes_load_or_are_a_clear_error(file, content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(content)
        try:
            load_config(DataRoot(Path(folder)))
        except ConfigError as error:
            assert file in str(error)


ODD_NAMES = ["", ".", "../up", "/up", "a|b", "a b", "é", "-a", "<b>", "a\nb", "x" * 9 + "\x00"]


@pytest.mark.fault("configuration")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_can_be_no_folder_or_asset_is_refused(name, tmp_path):
    entries = {
        "datasets": {"sources": {"s": {"reader": "pairs", "address": "f"}}},
        "models": {"mixer": "average"},
        "studies": {"title": "x", "models": ["parec"], "datasets": ["toys"], "seeds": [0]},
    }
    for file, entry in entries.items():
        path = tmp_path / f"{file}.toml"
        path.write_text(f"{toml(name)} = {toml(entry)}\n", encoding="utf-8")
        with pytest.raises(
            ConfigError, match=rf"(?s){file}\.toml \[.*a name is made of ASCII letters"
        ):
            load_config(DataRoot(tmp_path))
        path.write_text(f"my_{file} = {toml(entry)}\n", encoding="utf-8")
        load_config(DataRoot(tmp_path))
    entries["studies"]["variants"] = {name: {"n": 9}}
    path.write_text(f"mine = {toml(entries['studies'])}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"studies\.toml \[mine\.variants\] \["):
        load_config(DataRoot(tmp_path))
