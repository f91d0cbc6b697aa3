"""GPUs of one machine, shared out among the runs that train there at the same time.

Here belongs which GPU a run sees. A launcher that hands out GPUs itself, such as Ray's, leaves a
run one, and then nothing is done here.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

from fparec_pipeline.datasets.locks import locked

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU, where NVIDIA's driver is
OTHER_DRIVERS = (Path("/dev/dxg"), Path("/dev/kfd"))  # of Windows' subsystem for Linux, and AMD's


def has_gpu() -> bool:
    """Whether this machine has a GPU that CUDA may show; without loading torch, which knows."""
    if os.environ.get(VISIBLE) is not None:
        return bool(_gpus())
    return bool(_gpus()) or any(driver.exists() for driver in OTHER_DRIVERS)


@contextmanager
def own_gpu() -> Iterator[str | None]:
    """A GPU that no other run uses, as the only one that CUDA shows to this process.

    Must be entered before the process first asks CUDA anything. When all are taken, one is shared;
    with fewer than two there is nothing to share out.

    Returns:
        The GPU's number or name; None when nothing was done.
    """
    gpus = _gpus()
    if len(gpus) < 2:
        yield None
        return
    with ExitStack() as stack:
        gpu = next((gpu for gpu in gpus if _take(gpu, stack)), gpus[os.getpid() % len(gpus)])
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = gpu
        try:
            yield gpu
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _gpus() -> list[str]:
    """Those that this process may use."""
    if (named := os.environ.get(VISIBLE)) is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    return [str(number) for number in range(len(list(DRIVER.glob("*"))))]


def _take(gpu: str, stack: ExitStack) -> bool:
    # Beside no data root: the GPUs are the machine's.
    folder = Path(tempfile.gettempdir()) / f"fparec-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        stack.enter_context(locked(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock", 0))
    except Timeout:
        return False
    return True
