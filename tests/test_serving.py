"""From a leaderboard to an answer over HTTP, with the commands that a user types."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from data_roots import tiny_root
from processes import wait_until
from servers import MAIN, answers, free_ports

from fparec_pipeline.datasets.splits import read_splits
from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running.servers import GRACE_SECONDS
from fparec_pipeline.serving.champion import read_champion, read_pointer
from fparec_pipeline.tracking import default_uri

pytestmark = pytest.mark.timeout(900)


def fparec(data: DataRoot, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        env=os.environ | {"FPAREC_DATA": str(data.root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataRoot:
    """A CSV of one's own, run, promoted and recommended."""
    root = tiny_root(tmp_path_factory.mktemp("own"), epochs=2)
    for words in (
        ("run", "--datasets", "tiny", "--models", "fparec,average", "--seeds", "0"),
        ("promote", "tiny", "--model", "fparec"),
        ("recommend", "tiny", "--top", "5"),
    ):
        result = fparec(root, *words)
        assert result.returncode == 0, result.stderr
    return root


def test_every_user_has_five_items_that_are_not_of_the_history(data):
    table = pl.read_parquet(data.recommendations("tiny"))
    log = pl.read_csv(data.root / "tiny.csv")
    assert table.columns == ["user", "rank", "item", "score"]
    left = log.group_by("who").agg(wanted=(20 - pl.col("what").n_unique()).clip(upper_bound=5))
    given = table.group_by("user").agg(pl.len(), pl.col("item").n_unique().alias("distinct"))
    both = left.join(given, left_on="who", right_on="user", how="full")
    assert both.filter(pl.col("wanted").ne_missing(pl.col("len"))).height == 0
    assert given.filter(pl.col("len") != pl.col("distinct")).height == 0
    again = table.join(log, left_on=["user", "item"], right_on=["who", "what"], how="semi")
    assert again.height == 0


def test_the_registry_has_the_champion(data):
    from mlflow import MlflowClient

    store = default_uri(data)
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    version = client.get_model_version_by_alias("fparec-tiny", "champion")
    assert version.tags["fingerprint"] == read_champion("tiny", data).fingerprint


def test_users_and_histories_come_from_files_and_another_file_is_written(data, tmp_path):
    users, history = tmp_path / "users.txt", tmp_path / "new.csv"
    users.write_text("user 1\nsomebody new\n")
    history.write_text("who,what,when\nsomebody new,item 3,1\nsomebody new,item 4,2\n")
    out = tmp_path / "out.parquet"
    result = fparec(
        data,
        *("recommend", "tiny", "--users", str(users), "--history", str(history)),
        *("--out", str(out), "--top", "3"),
    )
    assert result.returncode == 0, result.stderr
    table = pl.read_parquet(out)
    assert table["user"].unique(maintain_order=True).to_list() == ["user 1", "somebody new"]
    assert table["score"].null_count() == 0


def test_what_had_no_effect_is_counted_whichever_file_is_written(data, tmp_path):
    history, block = tmp_path / "new.csv", tmp_path / "block.txt"
    history.write_text("who,what\nsomebody new,what is this\n")
    block.write_text("item 3\nitem 77\n")
    words = ("recommend", "tiny", "--history", str(history), "--block", str(block))
    for more in ((), ("--out", str(tmp_path / "out.parquet"))):
        result = fparec(data, *words, *more)
        assert result.returncode == 0, result.stderr
        for said in (
            "Ids of --block that the champion does not know: 1",
            "does not know, left out: 1",
            "who get the most popular items: 1",
        ):
            assert said in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recommend", "tinyy"), "Did you mean tiny?"),
        (("recommend", "beauty"), "`fparec promote beauty` makes one"),
        (("promote", "beauty"), "fparec run --datasets beauty"),
        (("promote", "tiny", "--model", "sasrec"), "--models sasrec"),
        (("recommend", "tiny", "--block", "/no/such/file"), "/no/such/file"),
        (("recommend", "tiny", "--out", "/"), "/ is a folder"),
        (("promote", "tiny", "--device", "bogus"), "bogus"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(data, words, said):
    result = fparec(data, *words)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def post(port: int, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def port(data, tmp_path_factory):
    """`fparec serve`, its virtual environment not activated, until one interrupt ends it."""
    (free,) = free_ports(1)
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", MAIN, "serve", "tiny", "--port", str(free)],
            env=os.environ | {"FPAREC_DATA": str(data.root), "PATH": os.defpath},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            ping = f"http://127.0.0.1:{free}/ping"
            wait_until(lambda: server.poll() is not None or answers(ping), "serve")
            assert server.poll() is None, log.read_text()
            yield free
        finally:
            server.send_signal(signal.SIGINT)
            interrupted = time.monotonic()
            status = server.wait(60)
    assert status == 0, log.read_text()
    assert time.monotonic() - interrupted < GRACE_SECONDS  # nothing had to be killed


def records(*histories: object) -> dict:
    return {"dataframe_records": [{"history": history} for history in histories]}


def test_a_made_up_history_is_answered_over_http(data, port):
    body = records(["item 3", "item 4", "no such item"], []) | {"params": {"k": 4}}
    status, said = post(port, body)
    assert status == 200
    known, empty = said["predictions"]
    assert len(set(known["items"]) - {"item 3", "item 4"}) == 4
    assert (known["k"], known["exclude_seen"], known["unknown"]) == (4, True, ["no such item"])
    assert empty["by"] == "popularity"
    seen = records(["item 3"]) | {"params": {"k": 20, "exclude_seen": False}}
    assert "item 3" in post(port, seen)[1]["predictions"][0]["items"]


@pytest.mark.parametrize(
    "body",
    [
        records("item 3"),
        records([1.5]),
        records(["item 3"]) | {"params": {"k": 0}},
        records(["item 3"]) | {"params": {"k": "many"}},
        {"dataframe_records": [{"past": ["item 3"]}]},
        {"what": 1},
        b"{no json",
    ],
)
def test_a_wrong_request_gets_a_400_with_a_sentence_and_harms_nobody(port, body):
    status, said = post(port, body)
    assert status == 400
    assert said["error_code"] in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    assert len(said["message"]) > 10
    assert post(port, records(["item 3"]))[0] == 200


def test_requests_at_once_are_all_answered_alike(port):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: post(port, records(["item 3", "item 7"])), range(40)))
    assert {status for status, _ in found} == {200}
    assert len({json.dumps(said["predictions"][0]["items"]) for _, said in found}) == 1


def test_the_champion_before_can_be_gone_back_to(data):
    first = read_champion("tiny", data)
    assert fparec(data, "promote", "tiny", "--model", "average").returncode == 0
    assert read_pointer("tiny", data).previous == first.fingerprint
    assert fparec(data, "promote", "tiny", "--rollback").returncode == 0
    assert read_champion("tiny", data) == first
    assert Path(data.champions("tiny") / first.fingerprint / "model.safetensors").exists()


def test_a_split_by_time_with_all_targets_goes_the_whole_way(tmp_path):
    from mlflow import MlflowClient

    data, name = tiny_root(tmp_path, epochs=2), "tiny-by-time"
    with (data.root / "datasets.toml").open("a") as file:
        file.write(f'\n[{name}]\nlike = "tiny"\n')
        file.write('protocol = { name = "temporal", target = "all" }\n')
    for words in (
        ("run", "--datasets", name, "--models", "fparec", "--seeds", "0"),
        ("promote", name),
        ("recommend", name, "--top", "3"),
        ("report",),
    ):
        result = fparec(data, *words)
        assert result.returncode == 0, result.stderr
    cases = read_splits(data.splits(name)).cases("test")
    assert len(cases.targets) > len(set(cases.users))
    users = pl.read_parquet(data.splits(name) / "users.parquet")["source_id"]
    given = pl.read_parquet(data.recommendations(name)).group_by("user").len()
    assert set(given["user"]) == set(users) and given["len"].max() == 3
    client = MlflowClient(tracking_uri=default_uri(data))
    champion = client.get_model_version_by_alias(f"fparec-{name}", "champion")
    assert client.get_run(champion.run_id).data.metrics["test/ndcg_at_10_answerable"] >= 0
    html = (data.results / "report.html").read_text(encoding="utf-8")
    assert 'id="beyond"' in html and "temporal: " in html.partition('id="audit"')[2]
