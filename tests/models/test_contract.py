"""The contract: every packaged part keeps it, and each way to break it is found."""

import re
import sys

import pytest
import torch
from tiny import PACKAGED, tiny_trial
from torch import nn

from fparec_pipeline.config import ConfigError, load_config
from fparec_pipeline.config.catalogue import LOSSES, MIXERS, NETWORKS, load
from fparec_pipeline.models.contract import ContractBroken, check_mixer, check_network
from fparec_pipeline.paths import CHECKOUT, DataRoot

ARMS = sorted(set(PACKAGED.arms) - set(PACKAGED.variants))


def test_every_name_of_the_catalogue_is_there():
    for parts in (MIXERS, NETWORKS, LOSSES):
        for name in parts:
            assert callable(load(name, parts))


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_every_mixer_keeps_the_contract(mixer, n):
    h = tiny_trial().hyperparameters
    check_mixer(h.model_copy(update={"mixer": mixer, "n": n, "k": 1}))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("changes", [{}, {"feed_forward": "last_block", "residual": "input"}])
def test_the_network_of_every_arm_keeps_the_contract(arm, changes):
    check_network(tiny_trial(arm, blocks=2, **changes).hyperparameters)


class Mean(nn.Module):
    """A mixer that keeps the contract: the mean of the values so far."""

    def __init__(self, h):
        super().__init__()

    def forward(self, query, value, mask, last_only=False):
        weight = mask.to(value.dtype).unsqueeze(-1)
        out = (value * weight).cumsum(0) / weight.cumsum(0).clamp_min(1)
        return out[-1:] if last_only else out


class SeesTheFuture(Mean):
    def forward(self, query, value, mask, last_only=False):
        weight = mask.to(value.dtype).unsqueeze(-1)
        out = ((value * weight).sum(0) / weight.sum(0)).expand_as(value)
        return out[-1:] if last_only else out


class SeesPadding(Mean):
    def forward(self, query, value, mask, last_only=False):
        return super().forward(query, value, torch.ones_like(mask), last_only)


class MixesUsers(Mean):
    def forward(self, query, value, mask, last_only=False):
        others = (value * mask.unsqueeze(-1)).mean(1, keepdim=True)
        return super().forward(query, value + others, mask, last_only)


class CountsFromTheLeft(Mean):
    def forward(self, query, value, mask, last_only=False):
        place = torch.arange(1, len(value) + 1, dtype=value.dtype).view(-1, 1, 1)
        return super().forward(query, value * place, mask, last_only)


class ForgetsLastOnly(Mean):
    def forward(self, query, value, mask, last_only=False):
        return super().forward(query, value, mask)


class WrongShape(Mean):
    def forward(self, query, value, mask, last_only=False):
        return super().forward(query, value, mask, last_only).transpose(0, 1)


class NotFinite(Mean):
    def forward(self, query, value, mask, last_only=False):
        return super().forward(query, value, mask, last_only) / mask.unsqueeze(-1)


class Draws(Mean):
    def forward(self, query, value, mask, last_only=False):
        return super().forward(query, value, mask, last_only) * torch.rand(())


def own(part, **changes):
    return tiny_trial("average", mixer=f"{__name__}:{part.__name__}", **changes).hyperparameters


def test_a_mixer_of_ones_own_can_be_checked():
    check_mixer(own(Mean))
    check_network(own(Mean, blocks=2))


@pytest.mark.parametrize(
    ("part", "point"),
    [
        (SeesTheFuture, "not causal"),
        (SeesPadding, "what stands at padding"),
        (MixesUsers, "one user's items change another's"),
        (CountsFromTheLeft, "padding that all users share"),
        (ForgetsLastOnly, "last_only"),
        (WrongShape, "shape"),
        (NotFinite, "not finite"),
        (Draws, "two calls in evaluation mode differ"),
    ],
)
def test_a_mixer_that_breaks_the_contract_is_told_the_point(part, point):
    with pytest.raises(ContractBroken, match=point):
        check_mixer(own(part))


# Parts of one's own, from a file


MIXER = """
import torch

class Last(torch.nn.Module):
    def __init__(self, h):
        super().__init__()
    def forward(self, query, value, mask, last_only=False):
        return value[-1:] if last_only else value
"""


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """The configuration with an arm of a mixer in a file of one's own; the file's text is given."""

    def load_with(text):
        (tmp_path / "own_mixers.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "models.toml").write_text('[last]\nmixer = "own_mixers:Last"\n')
        return load_config(DataRoot(tmp_path))

    yield load_with
    sys.modules.pop("own_mixers", None)


def test_a_mixer_of_ones_own_needs_no_fork(configured):
    h = configured(MIXER).hyperparameters("beauty", "last")
    check_network(h)


def test_the_example_of_the_documentation_keeps_the_contract(tmp_path, monkeypatch):
    page = (CHECKOUT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "my_module.py").write_text(blocks["python"])
    (tmp_path / "models.toml").write_text(blocks["toml"])
    monkeypatch.syspath_prepend(tmp_path)
    check_network(load_config(DataRoot(tmp_path)).hyperparameters("beauty", "running_mean"))


def test_the_source_of_a_part_of_ones_own_is_in_the_fingerprint(configured):
    before = configured(MIXER)
    prints = [before.trial("beauty", "last", 0).fingerprint("data")]
    changed = configured(MIXER + "\n# another line\n")
    prints.append(changed.trial("beauty", "last", 0).fingerprint("data"))
    prints.append(configured(MIXER).trial("beauty", "last", 0).fingerprint("data"))
    assert prints[0] == prints[2] != prints[1]
    # Nobody else's is touched.
    assert before.trial("beauty", "fparec", 0) == PACKAGED.trial("beauty", "fparec", 0)


def test_reading_the_configuration_runs_no_code_of_a_part(configured):
    configured("raise SystemExit('was run')").trial("beauty", "last", 0)


def test_a_part_that_is_not_there_is_named_with_what_to_do(configured, tmp_path):
    configured(MIXER)
    (tmp_path / "own_mixers.py").unlink()
    with pytest.raises(ConfigError, match=r"(?s)\[last\].*'own_mixers:Last'.*PYTHONPATH"):
        load_config(DataRoot(tmp_path))


def test_a_module_without_the_part_is_named(configured):
    h = configured("First = 1\n").hyperparameters("beauty", "last")
    with pytest.raises(ConfigError, match="own_mixers has no Last"):
        check_mixer(h)


@pytest.mark.parametrize("key", ["code = 'x'", "network = 'no_such'", "loss = 'no_such'"])
def test_what_cannot_be_a_part_is_refused(tmp_path, key):
    (tmp_path / "models.toml").write_text(f"[fparec]\n{key}\n")
    with pytest.raises(ConfigError, match=key.split()[0]):
        load_config(DataRoot(tmp_path))
