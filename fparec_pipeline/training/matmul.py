"""Matrix products in float32 by the faster of the two libraries that PyTorch carries.

PyTorch's `mm` on x86 is MKL, which leaves the wide vector units of AMD's processors unused: on a
Zen 5 the same product through oneDNN, which PyTorch ships too, takes half the time. On a Zen 4,
whose units are half as wide, the products are level, but the loss takes 1.1 times as long through
oneDNN, where every result is new memory. On Intel's processors MKL is the faster one by a tenth to
a third. Results differ by rounding only.
`benchmarks/matmul.py` prints both rates on the machine at hand.

Here belongs the choice between the two, and nothing of a model.
"""

import re
from pathlib import Path

import torch
from torch import Tensor


def _has_onednn() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    try:  # an operator without a public name: absent from some builds
        torch.ops.mkldnn._linear_pointwise(torch.ones(2, 3), torch.ones(4, 3), None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


def has_units_mkl_ignores(cpu: str) -> bool:
    """Whether this text of /proc/cpuinfo is of a Zen 5 (AMD's family 26) or a later one."""
    family = re.search(r"^cpu family\s*: (\d+)$", cpu, re.MULTILINE)
    return "AuthenticAMD" in cpu and family is not None and int(family[1]) >= 26


HAS_ONEDNN = _has_onednn()
CPU = Path("/proc/cpuinfo")
PREFERS_ONEDNN = (
    HAS_ONEDNN
    and torch.backends.mkl.is_available()
    and CPU.exists()
    and has_units_mkl_ignores(CPU.read_text())
)


def mm(a: Tensor, b: Tensor, buffer: Tensor | None = None) -> Tensor:
    """a·b: (m, k), (k, p) → (m, p), without gradients.

    With a `buffer` of at least m·p elements the result lies in it where the library can: memory
    that is new each time costs more than the product's own writing.
    """
    if PREFERS_ONEDNN and a.device.type == "cpu" and a.dtype == torch.float32:
        return onednn_mm(a, b)
    if buffer is None:
        return a @ b
    rows, columns = a.shape[0], b.shape[1]
    return torch.mm(a, b, out=buffer[: rows * columns].view(rows, columns))


def add_mm(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a·b in place: (m, p), (m, k), (k, p), without gradients."""
    if PREFERS_ONEDNN and a.device.type == "cpu" and a.dtype == torch.float32:
        total += onednn_mm(a, b)
    else:
        total.addmm_(a, b)


def onednn_mm(a: Tensor, b: Tensor) -> Tensor:
    """a·b by oneDNN, float32 on a CPU; only where HAS_ONEDNN."""
    if not (b.is_contiguous() or b.T.is_contiguous()):
        b = b.contiguous()  # a slice of columns gets oneDNN's reference loops, 1,000 times slower
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
