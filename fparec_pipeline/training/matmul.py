"""One matrix product a·bᵀ in float32, by the fastest library that PyTorch carries.

PyTorch's `mm` on x86 CPUs calls MKL, which does not use the wide vector units of every processor:
on a Zen 5 the same product through oneDNN, which PyTorch ships too, takes half the time. Results
differ by rounding only. `benchmarks/matmul.py` prints both rates on the machine at hand.
"""

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


HAS_ONEDNN = _has_onednn()


def mm_nt(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ: (m, k), (p, k) → (m, p), without gradients."""
    if HAS_ONEDNN and a.device.type == "cpu" and a.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T
