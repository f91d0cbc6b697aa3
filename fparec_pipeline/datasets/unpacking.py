"""A raw text file as Polars can scan it: unpacked, UTF-8, with a separator of one byte.

What belongs here: gzip, xz, bzip2, zstd, lz4 and zip, encodings, separators of several characters.
What does not: what the rows mean (`readers`).

A file that is plain already is scanned where it lies; else a copy is written into a scratch folder
and lives as long as that. What a file is, its first bytes say, never its name. Nothing is extracted
to a path of an archive's choice. Bytes that are no text become U+FFFD, so that they spoil only the
columns that they stand in.
"""

import bz2
import codecs
import gzip
import lzma
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from fparec_pipeline.datasets.files import CannotWrite, naming
from fparec_pipeline.datasets.sources import RawDataError, advice

PIECE = 1 << 20
# What a packed file may unpack to, unless its source says: the larger of these two. Logs that are
# mostly one repeated value reach 110 to 1; gzip cannot pass 1,032 to 1, a bomb comes close.
UNPACKED_BYTES = 1 << 30
UNPACKED_RATIO = 250
SEPARATOR = "\x1f"  # takes the place of a separator that is not one byte
REPLACEMENT = "\ufffd"

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
}
# What is no text, and cannot be taken for it.
FOREIGN = {
    b"PAR1": 'a parquet file; set reader = "parquet"',
    b"ARROW1": "an Arrow file; save it as parquet",
    b"Obj\x01": "an Avro file; save it as parquet or CSV",
    b"SQLite format 3\x00": "an SQLite database; export the table as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it, or pack it as gz, xz, bz2, zst or zip",
    b"Rar!": "a rar archive; unpack it, or pack it as gz, xz, bz2, zst or zip",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"%PDF": "a PDF file",
    b"\x89HDF": "an HDF5 file; save it as parquet or CSV",
}
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# zipfile's ValueError: a name that is no UTF-8; its RuntimeErrors: a password, an unknown method.
DAMAGE = (
    zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, OSError,
    RuntimeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A text file that Polars can scan."""

    path: Path
    has_quotes: bool
    is_text: bool  # False: U+FFFD stands where bytes were no text
    separator: str


@dataclass
class _Survey:
    """What is found out about a text while its pieces pass."""

    quote: bytes
    has_quotes: bool = False
    is_text: bool = True
    size: int = 0
    ends_with_cr: bool = False  # lines end as on a Macintosh of old, as far as the first piece goes

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def see(self, piece: bytes) -> None:
        if not self.size:
            self.ends_with_cr = b"\r" in piece and b"\n" not in piece
        self.size += len(piece)
        self.has_quotes = self.has_quotes or (bool(self.quote) and self.quote in piece)
        if self.is_text and not (piece.isascii() and not self._decoder.getstate()[0]):
            self._decode(piece, last=False)

    def end(self) -> None:
        if self.is_text:
            self._decode(b"", last=True)

    def _decode(self, piece: bytes, last: bool) -> None:
        try:
            self._decoder.decode(piece, last)
        except UnicodeDecodeError:
            self.is_text = False


def plain_text(
    path: Path,
    source: Any,
    scratch: Path,
    *,
    separator: str = ",",
    quote: str = "",
    escape: str = "",
    encoding: str = "utf-8",
    members: tuple[str, ...] = (),
) -> Text:
    """The text of a raw file, for readers of lines and of separated fields.

    Args:
        path: the raw file.
        source: its configuration; `member` and `unpacked_bytes` count where it has them.
        scratch: a folder in which a copy may be written that lives as long as it is scanned.
        separator: what stands between fields.
        quote: the character that is looked for, "" for none.
        escape: what stands before a quote inside a quoted field, "" where quotes are doubled there;
            the copy has them doubled.
        encoding: of the text.
        members: the names that the wanted file of a zip archive may have, the first found counts;
            () for the only file, or what the source's `member` says.

    Raises:
        RawDataError: a damaged or foreign file, a bomb, or text that is not of the encoding.
        CannotWrite: the copy cannot be written.
    """
    encoding = codecs.lookup(encoding).name
    one_byte = len(separator.encode()) == 1
    with path.open("rb") as file:
        start = file.read(512)
    packed = _packing(path, start, source)
    if members and packed != "zip":
        raise RawDataError(f"{path} is no intact zip archive.{advice(source)}")
    survey = _Survey(quote.encode())
    as_it_is = packed is None and one_byte and encoding == "utf-8" and not escape
    if as_it_is and not _is_utf_16(start):
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                survey.see(piece)
        survey.end()
        if survey.is_text and not survey.ends_with_cr:
            return Text(path, survey.has_quotes, True, separator)
    target = Path(tempfile.mkdtemp(dir=scratch)) / "text"
    survey = _Survey(survey.quote)
    with naming(target):
        copy = target.open("wb")
    with copy, _opened(path, packed, source, members) as file:
        pieces = _decoded(path, _limited(path, file, packed, source), encoding, survey)
        pieces = _with_line_feeds(pieces)
        pieces = _with_doubled_quotes(pieces, quote, escape) if escape else pieces
        for words in pieces if one_byte else _separated(path, pieces, separator):
            encoded = words.encode()
            survey.has_quotes = survey.has_quotes or (
                bool(survey.quote) and survey.quote in encoded
            )
            with naming(target):
                copy.write(encoded)
    return Text(target, survey.has_quotes, survey.is_text, separator if one_byte else SEPARATOR)


def _packing(path: Path, start: bytes, source: Any) -> str | None:
    """The name of the compression, or None for plain text.

    Raises:
        RawDataError: it is a file of another kind.
    """
    for magic, words in FOREIGN.items():
        if start.startswith(magic):
            raise RawDataError(f"{path} is {words}.{advice(source)}")
    if start.startswith(b"ORC") and b"ORC" in _end(path):  # not a header such as ORCID
        raise RawDataError(f"{path} is an ORC file; save it as parquet.{advice(source)}")
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", start):  # a block, or the end of an empty one
        return "bzip2"
    if start[257:262] == b"ustar":
        raise RawDataError(f"{path} is a tar archive; unpack it and name the file or the folder.")
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def _end(path: Path) -> bytes:
    """The file's last bytes."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        return file.read()


def _is_utf_16(start: bytes) -> bool:
    return start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def _opened(
    path: Path, packing: str | None, source: Any, members: tuple[str, ...]
) -> Iterator[IO[bytes]]:
    try:
        if packing == "zip":
            with zipfile.ZipFile(path) as archive:
                name = _member(path, archive, source, members)
                with archive.open(name) as member:
                    yield member
        elif packing in ("zstd", "lz4"):
            import pyarrow as pa

            with pa.CompressedInputStream(pa.OSFile(str(path)), packing) as stream:
                yield stream
        else:
            opener: Any = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open, None: open}
            with opener[packing](path, "rb") as file:
                yield file
    except (RawDataError, CannotWrite):
        raise
    except DAMAGE as error:
        if packing is None:
            raise RawDataError(f"{path} cannot be read: {error}.") from error
        kind = f"{packing} " + ("archive" if packing == "zip" else "file")
        raise RawDataError(
            f"{path}: the raw file cannot be read, it is no intact {kind}: {error}.{advice(source)}"
        ) from error


def _member(path: Path, archive: zipfile.ZipFile, source: Any, members: tuple[str, ...]) -> str:
    names = [
        info.filename
        for info in archive.infolist()
        # Not is_dir(), which fails on an empty name.
        if not info.filename.endswith("/") and not info.filename.startswith("__MACOSX/")
    ]
    if members:
        if wanted := [name for name in members if name in names]:
            return wanted[0]
        raise RawDataError(f"{path} holds none of {', '.join(members)}.{advice(source)}")
    if any(name.startswith("xl/") for name in names):
        raise RawDataError(f"{path} is an Excel workbook; save it as CSV.")
    member = getattr(source, "member", None)
    listed = ", ".join(names)[:200] or "no file"
    if member is not None and member not in names:
        raise RawDataError(f"{path} holds {listed}, not {member}. Correct `member`.")
    if member is None and len(names) != 1:
        raise RawDataError(f"{path} holds {listed}. Say with `member` which file is meant.")
    return member or names[0]


def _limited(path: Path, file: IO[bytes], packing: str | None, source: Any) -> Iterator[bytes]:
    """The file's pieces, up to what it may unpack to."""
    limit = getattr(source, "unpacked_bytes", None)
    limit = limit or max(UNPACKED_BYTES, UNPACKED_RATIO * path.stat().st_size)
    size = 0
    while piece := file.read(PIECE):
        size += len(piece)
        if packing and size > limit:
            raise RawDataError(
                f"{path} unpacks to more than {limit:,} bytes; it was not read on. If it is sound, "
                "set `unpacked_bytes` of its source in datasets.toml."
            )
        yield bytes(piece)


def _decoded(path: Path, pieces: Iterator[bytes], encoding: str, survey: _Survey) -> Iterator[str]:
    """The text, without a byte-order mark. What is no UTF-8 becomes U+FFFD, and is told `survey`.

    Raises:
        RawDataError: bytes that are no text of another encoding.
    """
    first = next(pieces, b"")
    if not encoding.startswith("utf"):  # a mark that some program has put before it all the same
        first = first.removeprefix(codecs.BOM_UTF8)
    if encoding == "utf-8":
        encoding = next((name for bom, name in BOMS.items() if first.startswith(bom)), encoding)
    errors = "replace" if encoding.startswith("utf-8") else "strict"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    done = 0
    try:
        for piece in chain([first], pieces):
            if errors == "replace":
                survey.see(piece)
            yield decoder.decode(piece)
            done += len(piece)
        if errors == "replace":
            survey.end()
        yield decoder.decode(b"", True)
    except UnicodeError as error:
        raise RawDataError(
            f"{path} is not {encoding} after {done:,} bytes: {error}. Correct `encoding`."
        ) from error


def _with_line_feeds(pieces: Iterator[str]) -> Iterator[str]:
    """The text with LF in the place of CR, where it has no LF of its own in its first piece."""
    first = next(pieces, "")
    convert = "\r" in first and "\n" not in first
    for piece in chain([first], pieces):
        yield piece.replace("\r", "\n") if convert else piece


def _with_doubled_quotes(pieces: Iterator[str], quote: str, escape: str) -> Iterator[str]:
    """The text with a quote doubled that is escaped, and an escape single that is."""
    pair = re.compile(f"{re.escape(escape)}([{re.escape(quote + escape)}])")
    rest = ""
    for piece in pieces:
        text = rest + piece
        at_end = len(text) - len(text.rstrip(escape))
        rest = escape * (at_end % 2)  # what it escapes comes with the next piece
        text = text.removesuffix(rest)
        yield pair.sub(lambda found: quote * 2 if found[1] == quote else escape, text)
    yield rest


def _separated(path: Path, pieces: Iterator[str], separator: str) -> Iterator[str]:
    """The text with SEPARATOR in the place of a separator that is not one byte."""
    rest = ""
    for piece in pieces:
        if SEPARATOR in piece:
            raise RawDataError(
                f"{path} holds the control character U+001F, so that `separator` = {separator!r} "
                "cannot be read. Use a separator of one ASCII character."
            )
        text = rest + piece
        end = text.rfind("\n") + 1  # no separator goes over the end of a line
        rest = text[end:]
        yield text[:end].replace(separator, SEPARATOR)
    yield rest.replace(separator, SEPARATOR)
