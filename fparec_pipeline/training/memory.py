"""How this process's allocator treats memory that a training step frees.

What belongs here: settings of the C library's allocator. How much a step allocates is decided by
`blocks.py` and the losses.
"""

import ctypes

# Parameters of glibc's mallopt(3), by their numbers in malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {
    MMAP_THRESHOLD: 32 << 20,  # the largest that glibc takes; smaller blocks come from the heap
    TRIM_THRESHOLD: 1 << 30,  # of free memory at the heap's end are kept
    TOP_PAD: 64 << 20,  # the heap grows by so much
}


def keep_freed_memory() -> bool:
    """Let the process keep what a step frees for the next step; whether the allocator took it.

    By default glibc gives large blocks back to the system, which clears each of their pages when
    they are next touched: on a Zen 5 a third of the loss's time (`benchmarks/steps.py`). Elsewhere
    than under glibc nothing is changed. It cannot be undone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
