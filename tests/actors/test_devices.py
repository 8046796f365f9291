"""Names of devices and number formats: known or refused in a sentence, whatever this machine has."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from actors.devices import parse_device, pick_device, pick_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_name_is_read_whether_the_machine_has_it_or_not(no_gpu: None) -> None:
    assert parse_device("auto") is None
    assert parse_device("cuda:7") == torch.device("cuda", 7)
    for name in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(ValueError, match=f"torch knows no device '{name}' to compute on"):
            parse_device(name)


def test_auto_is_the_gpu_where_there_is_one(two_gpus: None) -> None:
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == GPU
    assert pick_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"only 2 of them here; count from 0\.$"):
        pick_device("cuda:2")


def test_without_one_auto_is_the_cpu_and_a_gpu_is_refused(no_gpu: None) -> None:
    assert pick_device("auto") == CPU
    with pytest.raises(ValueError, match=r"finds no cuda here; set policy\.device=auto\.$"):
        pick_device("cuda")


def test_auto_is_the_format_whose_range_is_float32s() -> None:
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("auto", GPU) == torch.bfloat16
    assert pick_dtype("float16", CPU) == torch.float16


_MEMORY = """
import resource, sys
import torch  # whose blocks are aligned
from actors.devices import keep_freed_memory

def used():
    return resource.getrusage(resource.RUSAGE_SELF)

def work(rounds, blocks, size):
    for _ in range(rounds):
        [b"x" * (size * 2**20) for _ in range(blocks)]

if sys.argv[1] == "kept":
    keep_freed_memory()
work(5, 8, 20)
before = used().ru_minflt
work(5, 8, 20)
faults, before = used().ru_minflt - before, used().ru_maxrss
for _ in range(12):
    torch.ones(400 * 2**18)
print(faults, (used().ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="This is a setting of glibc.")
def test_freed_memory_is_used_again_without_new_pages_and_a_process_grows_no_larger_for_it() -> None:
    kept, given_back = (
        [int(word) for word in subprocess.check_output([sys.executable, "-c", _MEMORY, how], text=True).split()]
        for how in ("kept", "given back")
    )
    assert kept[0] < 100 < given_back[0]  # 200,000 of 4 KiB, or 400 of 2 MiB
    assert kept[1] < 450, "One block of 400 MiB at a time, twelve times."
    assert given_back[1] < 450
