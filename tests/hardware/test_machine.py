"""Facts of machines that are not at hand, from copies of what Linux says of them."""

from __future__ import annotations

import dataclasses

import pytest

from handloom import cgroups, runtime
from handloom.hardware.machine import machine

X86 = """processor\t: {n}
model name\t: Some Processor 9000
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu avx2 fma f16c avx512f avx512_vnni hypervisor
"""
ARM = """processor\t: {n}
BogoMIPS\t: 243.75
Features\t: fp asimd asimddp i8mm
"""


def made(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


def test_a_processor_with_hyper_threads(tmp_path):
    cpuinfo = "\n".join(X86.format(n=n, core=n // 2) for n in range(4))
    caches = {
        f"sys/devices/system/cpu/cpu{n}/cache/index{index}/{name}": value
        for n in range(4)
        for index, level, size, shared in ((0, 1, "32K", str(n)), (3, 3, "16384K", "0-1" if n < 2 else "2-3"))
        for name, value in (("level", str(level)), ("size", size), ("shared_cpu_list", shared))
    }
    found = machine(made(tmp_path, {"proc/cpuinfo": cpuinfo, **caches}))
    assert found.processor == "Some Processor 9000"
    assert found.instructions == ("avx2", "fma", "f16c", "avx512f", "avx512_vnni")
    assert found.physical_cores == 2
    assert found.cache_bytes == 2 * 16 << 20
    laptop = dataclasses.replace(found, logical_cores=8, physical_cores=4, affinity=8, quota=None)
    assert (laptop.granted, laptop.granted_physical) == (8, 4)
    assert dataclasses.replace(laptop, quota=2.5).granted == 2
    assert dataclasses.replace(laptop, quota=0.5).granted == 1


def test_an_arm_processor_and_a_system_without_proc(tmp_path):
    found = machine(made(tmp_path, {"proc/cpuinfo": "\n".join(ARM.format(n=n) for n in range(2))}))
    assert found.instructions == ("asimd", "asimddp", "i8mm")
    assert found.physical_cores >= 1
    bare = machine(tmp_path / "nothing")
    assert bare.processor
    assert (bare.instructions, bare.cache_bytes, bare.quota) == ((), None, None)


V2 = {"proc/self/cgroup": "0::/user.slice/app.scope\n"}
V1 = {"proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, None, None),
        ({**V2, "sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000"}, None, None),
        ({**V2, "sys/fs/cgroup/user.slice/app.scope/cpu.max": "150000 100000"}, 1.5, None),
        (
            {
                **V2,
                "sys/fs/cgroup/user.slice/cpu.max": "100000 100000",  # a limit of the group around it
                "sys/fs/cgroup/user.slice/app.scope/cpu.max": "400000 100000",
                "sys/fs/cgroup/user.slice/app.scope/memory.max": "max",
                "sys/fs/cgroup/user.slice/memory.max": "4000000",
            },
            1.0,
            4_000_000,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0, None),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": "9223372036854771712",
            },
            2.5,
            None,
        ),
        (  # inside the container the path is another: its group is the mounted root
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "8000000",
            },
            None,
            8_000_000,
        ),
        ({**V2, "sys/fs/cgroup/user.slice/app.scope/cpu.max": "nonsense"}, None, None),
    ],
)
def test_limits_of_control_groups_of_both_versions(tmp_path, files, cores, memory):
    assert cgroups.limits(made(tmp_path, files)) == cgroups.Limits(cores, memory)


def test_the_cores_and_memory_of_a_process_are_those_of_its_group(monkeypatch):
    monkeypatch.setattr(cgroups, "limits", lambda: cgroups.Limits(1.5, 12345))
    assert runtime.available_cores() == 1
    assert runtime.memory_bytes() == 12345
