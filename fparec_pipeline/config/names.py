"""Names that a user gives, checked, and addresses as they may be shown.

What belongs here: the error of the configuration, and small functions on text that every layer
needs. What does not: which names there are.
"""

import difflib
import re
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration file or a name on the command line that cannot be used."""


DATASET_NAME = "-."  # what a dataset's name may hold beside letters, digits and _


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name`, when it is among `names`.

    Raises:
        ConfigError: it is not; the message gives the close matches and what there is.
    """
    names = list(names)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"There is no {what} {name!r}.{hint} There are: {', '.join(names)}.")


def is_name(name: str, also: str = "") -> bool:
    """Whether it may name a folder, an asset and a partition: ASCII letters, digits, _, `also`."""
    return re.fullmatch(rf"\w[\w{re.escape(also)}]*", name, re.ASCII) is not None


def masked(text: str) -> str:
    """`text` with the password of every address in it replaced by ***, as it may be shown.

    A password is what stands before the @ of an address (after a colon, if there is one), or a
    parameter of it that is called so, or a key, a token or a signature.
    """
    text = re.sub(r"(://[^:/@\s]*:)(?!\d+/)\S*@", r"\1***@", text)  # digits and / are a port
    text = re.sub(r"(://)[^:/@\s]+@", r"\1***@", text)
    called = "password|secret|token|signature|sig|credential|key"
    return re.sub(rf"(?i)([?&][\w-]*(?:{called})[\w-]*=)[^&\s]*", r"\1***", text)
