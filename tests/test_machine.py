"""Energy and memory, as the machine reports them."""

import subprocess
import sys

import pytest
import torch

from danqing import machine

CPU = torch.device("cpu")


def domain(folder, name, kind, microjoules, limit=262_143_328_850):
    (folder / name).mkdir(parents=True)
    for file, value in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", limit)):
        (folder / name / file).write_text(f"{value}\n")
    return folder / name / "energy_uj"


def test_energy_is_that_of_the_packages_alone(tmp_path):
    first = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    others = [
        domain(tmp_path, "intel-rapl:0:0", "core", 0),
        domain(tmp_path, "intel-rapl:0:1", "dram", 0),
        domain(tmp_path, "intel-rapl:2", "psys", 0),
        domain(tmp_path, "intel-rapl-mmio:0", "package-0", 0),  # the first package once more
    ]
    meter = machine.EnergyMeter.open(CPU, tmp_path)
    assert meter is not None
    assert meter.spent() == 0
    first.write_text("3500000\n")
    second.write_text("6000000\n")
    for other in others:
        other.write_text("9000000000\n")
    assert meter.spent() == 3.5
    assert meter.spent() == 0


def test_a_counter_that_comes_round_goes_on(tmp_path):
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 99_000_000, limit=100_000_000)
    meter = machine.EnergyMeter.open(CPU, tmp_path)
    assert meter is not None
    counter.write_text("2000000\n")
    assert meter.spent() == 3
    counter.unlink()  # a reading that fails is passed over, and made up for by the next
    assert meter.spent() == 0
    counter.write_text("4000000\n")
    assert meter.spent() == 2


def test_a_machine_that_does_not_tell_has_no_meter(tmp_path):
    assert machine.EnergyMeter.open(CPU, tmp_path / "missing") is None
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.unlink()
    counter.mkdir()  # what may not be read: root may read any file
    assert machine.EnergyMeter.open(CPU, tmp_path) is None


def test_peak_memory_covers_what_was_taken_and_given_back():
    before = machine.peak_memory(CPU)
    assert before is not None
    assert before >= 0.9 * machine.resident_memory()
    taken = torch.ones(max(before - machine.resident_memory(), 0) // 4 + 25_000_000)  # 100 MB beyond the peak
    del taken
    assert machine.peak_memory(CPU) > before + 50_000_000


def test_peak_memory_is_not_that_of_the_process_that_started_it():
    held = b"x" * 200_000_000  # beyond PyTorch, which both hold
    ours = machine.peak_memory(CPU)
    assert ours is not None
    code = "import torch; from danqing import machine; print(machine.peak_memory(torch.device('cpu')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(said.stdout) < ours - len(held) // 2


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_errors_of_full_memory_are_recognised_whatever_reports_them(error, is_full):
    assert machine.is_out_of_memory(error) == is_full
