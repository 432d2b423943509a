"""What the machine has: processor, memory, how much of it is free, and how much energy it takes."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danqing import control_groups, threads

if TYPE_CHECKING:  # torch is imported where it is used: exported models run without it
    import torch

_GLANCE_SECONDS = 0.1  # of looking for free cores before a command that may be short
_MEMORY_IS_FULL = re.compile(r"can't allocate memory|out\sof\smemory|ALLOC_FAILED")
"""What errors say when memory is full: the CPU's allocator, drivers of GPUs, and cuBLAS and cuDNN."""


def hardware(device: "torch.device") -> dict[str, Any]:
    """Describe what a run's speed depends on, for its report."""
    import torch

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": total_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def total_memory() -> int:
    """Return the memory in bytes that the machine or container has.

    It is 0 where the system does not report it.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min(machine, control_groups.memory().limit)
    except (AttributeError, ValueError, OSError):
        return 0


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_memory(device: "torch.device | None" = None) -> int:
    """Return the bytes that a run may use on a device.

    device: None is the processor.
    They are a very large number where the system does not report them.
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    free = control_groups.memory().free
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return min(free, int(line.split()[1]) * 1024)
    return free


def resident_memory() -> int:
    """Return the bytes of memory that the process uses now.

    They are 0 where the system does not report them.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: "torch.device") -> int | None:
    """Return the most bytes that the process has used.

    They are those of the GPU where it trains on one. None where the system does not report them.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, ValueError):  # Linux's ru_maxrss holds what the parent took before exec
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full."""
    import torch

    # The allocator of the CPU has no exception class of its own, nor has the memory of kernels on a GPU.
    return isinstance(error, torch.OutOfMemoryError) or bool(_MEMORY_IS_FULL.search(str(error)))


def cores_used(device: "torch.device") -> int:
    """Return how many cores work for a device.

    They are those that torch may use, or the one that feeds a GPU.
    """
    import torch

    return torch.get_num_threads() if device.type == "cpu" else 1


@contextlib.contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Let torch compute with some number of threads in a block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_free_cores() -> None:
    """Let torch compute on the cores that other processes leave free.

    A number of threads that the user has set is kept. For commands that sample or score: their results do not
    depend on the number of threads.
    """
    begun = threads.Look()
    import torch  # the time that it takes shows what other processes do

    here = torch.get_num_threads()
    if here > 1 and not threads.is_count_chosen():
        torch.set_num_threads(min(here, threads.free_cores(_GLANCE_SECONDS, begun=begun)))


@dataclass
class _Counter:
    """A count of joules that only grows, and begins at zero again when it reaches `limit`."""

    read: Callable[[], float]
    limit: float
    before: float

    def spent(self) -> float:
        now = self.read()
        grown = now - self.before
        self.before = now
        return grown if grown >= 0 else grown + self.limit


class EnergyMeter:
    """The joules that the machine's processors and GPU use.

    Those of other processes are included. Linux reports those of Intel's and AMD's processor packages (RAPL)
    where the user may read them, and the driver those of NVIDIA GPUs. A RAPL counter starts again within an
    hour: read it more often.
    """

    def __init__(self, counters: Sequence[_Counter]) -> None:
        self._counters = list(counters)

    @classmethod
    def open(cls, device: "torch.device", folder: Path = Path("/sys/class/powercap")) -> "EnergyMeter | None":
        """Open a meter of the processors, and of a GPU.

        device: measured too where it is a GPU.
        None where nothing can be measured.
        """
        counters = [counter for domain in sorted(folder.glob("intel-rapl:*")) if (counter := _rapl(domain))]
        if device.type == "cuda" and (gpu := _nvidia(device)):
            counters.append(gpu)
        return cls(counters) if counters else None

    def spent(self) -> float:
        """Return the joules since the last call, or since opening."""
        total = 0.0
        for counter in self._counters:
            with contextlib.suppress(OSError, ValueError):
                total += counter.spent()
        return total


def _rapl(domain: Path) -> _Counter | None:
    """A processor package; None for a part of one, and where the counter may not be read."""

    def read() -> float:
        return int((domain / "energy_uj").read_text()) / 1e6

    try:
        if not (domain / "name").read_text().startswith("package"):
            return None
        return _Counter(read, int((domain / "max_energy_range_uj").read_text()) / 1e6, read())
    except (OSError, ValueError):
        return None


def _nvidia(device: "torch.device") -> _Counter | None:
    """A GPU's own count since its driver was loaded, through the driver's library (NVML)."""
    import torch

    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        handle, total = ctypes.c_void_p(), ctypes.c_ulonglong()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()

        def read() -> float:
            if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(total)):
                raise OSError("this GPU does not count its energy")
            return total.value / 1000

        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)):
            return None
        return _Counter(read, 2.0**64 / 1000, read())
    except (OSError, AttributeError, RuntimeError):
        return None
