"""Each rule of doctor: what it fires on, its remedy, and that a machine in order has nothing to fix."""

from __future__ import annotations

import dataclasses

import pytest

from handloom.hardware import environment as surroundings
from handloom.hardware.environment import Environment, environment, openmp_libraries
from handloom.hardware.findings import findings
from handloom.hardware.machine import Machine

MACHINE = Machine(
    processor="Some Processor",
    architecture="x86_64",
    instructions=("avx2", "avx512f"),
    physical_cores=4,
    logical_cores=4,
    affinity=4,
    quota=None,
    cache_bytes=8 << 20,
    memory_bytes=16 << 30,
    available_bytes=8 << 30,
    memory_limit=None,
    swap_used_bytes=0,
)
GOOD = Environment(
    machine=MACHINE,
    threads=4,
    others=0.0,
    governor="powersave (intel_pstate)",
    read_bandwidth=20e9,
    compiler="/usr/bin/cc",
    native="avx2",
    openmp=("/lib/libgomp.so.1",),
    torch="2.13.0+cpu",
    torch_instructions="AVX512",
    cache="cache",
    cache_free_bytes=50 << 30,
    cache_speed=500e6,
)
KMP = {"variables": {"KMP_AFFINITY": "compact"}}
NO_KERNELS = {"native": None, "native_problem": "there is no C compiler (cc)", "compiler": None}
CASES = [
    ("native", NO_KERNELS, "Install a C compiler: `sudo apt install gcc`"),
    ("native", {**NO_KERNELS, "variables": {"HANDLOOM_NATIVE": "0"}}, "Remove HANDLOOM_NATIVE"),
    ("native", {**NO_KERNELS, "compiler": "/bin/cc", "native_problem": "cc failed: x"}, "Repair the compiler /bin/cc"),
    ("instructions", {"variables": {"ATEN_CPU_CAPABILITY": "default"}}, "Remove ATEN_CPU_CAPABILITY"),
    ("instructions", {"torch_instructions": "AVX2"}, "PyTorch's own CPU build"),
    ("instructions", {"torch_instructions": "DEFAULT"}, "PyTorch's own CPU build"),
    ("waiting", {"variables": {"OMP_WAIT_POLICY": "active"}}, "OMP_WAIT_POLICY=PASSIVE"),
    ("waiting", {"variables": {"GOMP_SPINCOUNT": "infinite"}}, "Remove GOMP_SPINCOUNT"),
    ("openmp", {"openmp": ("/a/libgomp.so.1", "/b/libiomp5.so")}, "Use an environment with Handloom alone"),
    (
        "openmp",
        {"openmp": ("/a/libgomp.so.1", "/b/libiomp5.so"), "variables": {"LD_PRELOAD": "/b/libiomp5.so"}},
        "Remove LD_PRELOAD",
    ),
    ("openmp", KMP, "OMP_ variables"),
    ("threads", {"threads": 8, "variables": {"OMP_NUM_THREADS": "8"}}, "OMP_NUM_THREADS=4"),
    ("threads", {"threads": 1, "variables": {"OMP_NUM_THREADS": "1"}}, "Remove it"),
    ("threads", {"machine": dataclasses.replace(MACHINE, physical_cores=2)}, "OMP_NUM_THREADS=2"),
    ("load", {"others": 1.3}, "Close them, or wait"),
    ("quota", {"machine": dataclasses.replace(MACHINE, quota=2.5), "threads": 2}, "docker run"),
    ("memory", {"machine": dataclasses.replace(MACHINE, available_bytes=1 << 30)}, "smaller model"),
    ("memory", {"machine": dataclasses.replace(MACHINE, memory_limit=1 << 30)}, "smaller model"),
    ("memory", {"machine": dataclasses.replace(MACHINE, swap_used_bytes=4 << 30)}, "Close programs"),
    ("disk", {"cache_problem": "cache: Permission denied"}, "HANDLOOM_CACHE"),
    ("disk", {"cache_free_bytes": 1 << 30}, "Remove files"),
    ("disk", {"cache_speed": 10e6}, "local disk"),
    ("power", {"governor": "powersave (acpi-cpufreq)"}, "performance"),
    ("torch", {"torch_cuda": "12.8"}, "CPU build"),
]


def test_a_machine_in_order_has_nothing_to_fix():
    assert findings(GOOD) == []
    unknown = {"others": None, "governor": None, "cache_speed": None, "cache_free_bytes": None, "openmp": ()}
    assert findings(dataclasses.replace(GOOD, **unknown)) == []


@pytest.mark.parametrize(("name", "changes", "remedy"), CASES)
def test_each_finding_alone_with_its_remedy(name, changes, remedy):
    found = findings(dataclasses.replace(GOOD, **changes))
    assert [one.name for one in found] == [name]
    assert remedy in found[0].remedy


def test_every_rule_has_a_case():
    from handloom.hardware.findings import _RULES

    found = {one.name for _, changes, _ in CASES for one in findings(dataclasses.replace(GOOD, **changes))}
    assert len(found) == len(_RULES)
    fired = {rule for rule in _RULES for _, changes, _ in CASES if list(rule(dataclasses.replace(GOOD, **changes)))}
    assert fired == set(_RULES)


def test_with_intels_openmp_its_variables_have_an_effect():
    assert findings(dataclasses.replace(GOOD, openmp=("/a/libiomp5.so",), **KMP)) == []


def test_openmp_libraries_of_a_process(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    lines = [
        "7f00-7f01 r-xp 00000000 08:01 1  /env/torch/lib/libgomp-a34b3233.so.1",
        "7f01-7f02 r--p 00000000 08:01 1  /env/torch/lib/libgomp-a34b3233.so.1",
        "7f02-7f03 r-xp 00000000 08:01 2  /opt/intel/libiomp5.so",
        "7f03-7f04 r-xp 00000000 08:01 3  /usr/lib/libc.so.6",
        "7f04-7f05 rw-p 00000000 00:00 0",
    ]
    (tmp_path / "proc" / "self" / "maps").write_text("\n".join(lines), encoding="ascii")
    assert openmp_libraries(tmp_path) == ("/env/torch/lib/libgomp-a34b3233.so.1", "/opt/intel/libiomp5.so")
    assert openmp_libraries(tmp_path / "nothing") == ()


def test_this_machine_is_read_and_only_variables_that_matter_are_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("SECRET", "not to be shown")
    monkeypatch.setattr(surroundings.Meter, "others", lambda self: 0.0)
    seen = environment(measure=False)
    assert seen.variables["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "SECRET" not in seen.variables
    assert seen.cache_free_bytes > 0
    assert (seen.native is None) != (seen.native_problem is None)


def test_a_cache_that_cannot_be_written_is_a_finding(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(surroundings.Meter, "others", lambda self: 0.0)
    assert "disk" in [one.name for one in findings(environment(measure=False))]
