"""Coverage-guided fuzzing of configuration and readers with atheris, half a minute of it.

`make test-faults` runs this file. Bytes are taken for a file of the data root or for a raw file.
Whatever they are, the configuration and the splits are made, or refused by an error of ours;
anything else ends the fuzzer, which prints the input.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    print("Left out: atheris has no wheel for this Python and system.")
    sys.exit(0)

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from nasty import COLUMNS, LINES, good_rows, packed, parquet, text_of

with atheris.instrument_imports(include=["fparec_pipeline", "tomllib"]):
    from fparec_pipeline.config import ConfigError, Dataset, load_config, source_of
    from fparec_pipeline.datasets.files import DatasetError
    from fparec_pipeline.datasets.splits import make_splits
    from fparec_pipeline.paths import DataRoot

FILES = ("datasets.toml", "models.toml", "studies.toml")
READERS = (
    *((reader, COLUMNS if reader == "csv" else {}) for reader in (*LINES, "sequences")),
    ("parquet", COLUMNS),
    ("csv", COLUMNS | {"separator": "::", "encoding": "latin-1"}),
    ("csv", COLUMNS | {"quote": "", "columns": ["u", "i", "t"], "time_unit": "ms"}),
    ("csv", COLUMNS | {"time_format": "%d.%m.%Y", "drop_duplicates": True}),
)
SECONDS = 30


def one_input(content: bytes) -> None:
    """The first byte chooses what the others are taken for."""
    choice, content = content[:1], content[1:]
    kind = (choice[0] if choice else 0) % (len(FILES) + len(READERS))
    with tempfile.TemporaryDirectory() as folder:
        data = DataRoot(Path(folder))
        if kind < len(FILES):
            (data.root / FILES[kind]).write_bytes(content)
            try:
                load_config(data)
            except ConfigError as error:
                assert FILES[kind] in str(error)
            return
        reader, keys = READERS[kind - len(FILES)]
        source = source_of(reader=reader, address="f", **keys)
        path = data.root / "file"
        path.write_bytes(content)
        try:
            make_splits("shop", Dataset(core=1, sources={"s": source}), path, data)
        except DatasetError as error:
            assert "shop" in str(error) or str(path) in str(error)


def write_corpus(folder: Path) -> None:
    """What the fuzzer starts from: files as they should be."""
    package = Path(sys.modules["fparec_pipeline.config"].__file__ or "").parent
    seeds = [(package / file).read_bytes() for file in FILES]
    for reader, _ in READERS:
        rows = good_rows(4, 3)
        seeds.append(parquet() if reader == "parquet" else packed(reader, text_of(reader, rows)))
    for kind, seed in enumerate(seeds):
        (folder / str(kind)).write_bytes(bytes([kind]) + seed)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder))
        options = [f"-max_total_time={SECONDS}", f"-artifact_prefix={folder}/", folder]
        sys.exit(subprocess.run([sys.executable, __file__, *options]).returncode)
