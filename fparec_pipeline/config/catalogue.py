"""The parts that an arm names: where each mixer, network and loss stands.

What belongs here: names, and how a name becomes code. Nothing is imported before it is used, so
that the configuration is read without torch.

A part of the project has a short name below. A part of one's own is named "module:Class", by a
module that Python can import (installed, or in a folder of PYTHONPATH); its source file is then
part of the fingerprint of every trial that uses it (other modules that it imports are not).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fparec_pipeline.config.names import ConfigError, known

_MIXERS, _LOSSES = "fparec_pipeline.models.mixers", "fparec_pipeline.training.losses"

# A class: built from Hyperparameters, called as `models.mixers` says.
MIXERS = {
    "self_attention": f"{_MIXERS}:SelfAttention",
    "linear_attention": f"{_MIXERS}:LinearAttention",
    "token_mixing": f"{_MIXERS}:TokenMixing",
    "positional": f"{_MIXERS}:Positional",
    "factorized_positional": f"{_MIXERS}:FactorizedPositional",
    "average": f"{_MIXERS}:Average",
    "linear_annealing": f"{_MIXERS}:LinearAnnealing",
    "exponential_annealing": f"{_MIXERS}:ExponentialAnnealing",
}
RANKED = ("factorized_positional",)  # its rank k must fit the window
LEARNED = ("positional", "factorized_positional")  # may have an attention_learning_rate

# A class: built from Hyperparameters and the number of items, called as `models.networks` says.
MIXER_BLOCKS = "mixer_blocks"  # the paper's network, the only one with a mixer
NETWORKS = {MIXER_BLOCKS: "fparec_pipeline.models.network:Recommender"}

# A function `build`, as `training.losses` says.
LOSSES = {
    "cross_entropy": f"{_LOSSES}.cross_entropy:build",
    "sampled_softmax": f"{_LOSSES}.sampled_softmax:build",
    "binary_cross_entropy": f"{_LOSSES}.binary_cross_entropy:build",
}


def checked(name: str, parts: Mapping[str, str], what: str) -> str:
    """`name`, when it is one of `parts` or has the form of a part of one's own.

    Raises:
        ConfigError: it is neither.
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return name
    try:
        return known(name, parts, what)
    except ConfigError as error:
        raise ConfigError(f'{error} One of your own is named "module:Class".') from error


def load(name: str, parts: Mapping[str, str]) -> Any:
    """The part of that name, imported.

    Raises:
        ConfigError: a part of one's own whose module cannot be found, or does not have it.
    """
    module, _, attribute = parts.get(name, name).partition(":")
    if name not in parts:
        _source(name)
    found = getattr(import_module(module), attribute, None)
    if found is None:
        raise ConfigError(f"{name!r}: the module {module} has no {attribute}.")
    return found


def code_of(names: Iterable[str]) -> str | None:
    """16 hex digits over the sources of the parts of one's own among `names`; None without any.

    Raises:
        ConfigError: a module that cannot be found.
    """
    sources = [_source(name) for name in sorted(set(names)) if ":" in name]
    if not sources:
        return None
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _source(name: str) -> Path:
    module = name.partition(":")[0]
    try:
        spec = find_spec(module)
    except ImportError:  # of a package that it would be in
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise ConfigError(
            f"{name!r}: no module {module} can be found. Install it, or name the folder that it "
            "lies in with the environment variable PYTHONPATH."
        )
    return Path(spec.origin)
