"""scripts/: the installer keeps CUDA builds out and says what to do; constraints get markers where needed."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.native import library as native

ROOT = Path(__file__).resolve().parent.parent


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load_script("install")
constraints = load_script("constraints")


# The reports are recorded from pip 26.3, less the fields that nobody reads.


def report(version, requires, *others):
    torch = {"metadata": {"name": "torch", "version": version, "requires_dist": requires}}
    return {"version": "1", "install": [torch, *({"metadata": {"name": n, "version": "1"}} for n in others)]}


PLAIN = ["filelock", "sympy>=1.13.3", 'pyyaml; extra == "pyyaml"']
CUDA = [*PLAIN, 'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"', 'triton==3.7.1; platform_system == "Linux"']
TOOLKIT = 'cuda-toolkit[cublas,nvtx]==13.0.3; platform_system == "Linux" and platform_machine == "x86_64"'
TORCH = "torch==2.13.0"


@pytest.mark.parametrize(
    ("answer", "machine", "cuda"),
    [
        (report("2.13.0+cpu", PLAIN), "x86_64", False),
        (report("2.13.0", PLAIN), "aarch64", False),
        (report("2.13.0", CUDA), "x86_64", True),
        (report("2.13.0", [*PLAIN, TOOLKIT]), "x86_64", True),
        (report("2.13.0", [*PLAIN, TOOLKIT]), "aarch64", False),
        (report("2.13.0", [*PLAIN, 'triton; extra == "fast"']), "x86_64", False),
        (report("2.13.0+cu130", PLAIN), "x86_64", True),
        (report("2.13.0+rocm7.0", PLAIN), "x86_64", True),
        (report("2.13.0", PLAIN, "sympy", "nvidia_nccl_cu13"), "x86_64", True),
        (report("2.13.0", PLAIN, "sympy", "triton"), "x86_64", True),
    ],
)
def test_a_cuda_build_is_known_by_its_report(answer, machine, cuda):
    assert install.needs_cuda(answer, machine) is cuda


class Pip:
    """Stands in for pip: answers from a list, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []

    def __call__(self, arguments, show):
        self.calls.append(list(arguments))
        return self.answers.pop(0)


def said(answer):
    return (0, json.dumps(answer), "")


DONE = (0, "", "")
UNREACHABLE = (1, "", "ERROR: No matching distribution found for torch==2.13.0")


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("installed", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_a_torch_that_is_there_is_left_alone(linux, installed):
    pip = Pip()
    install.install_torch(TORCH, {}, pip, installed)
    assert pip.calls == []


@pytest.mark.parametrize("installed", [None, "2.12.1+cpu", "2.13.0.post1"])
def test_linux_takes_the_usual_build_when_it_is_for_cpus(linux, installed):
    pip = Pip(said(report("2.13.0+cpu", PLAIN)), DONE)
    install.install_torch(TORCH, {}, pip, installed)
    assert "--dry-run" in pip.calls[0]
    assert pip.calls[1] == ["install", "--no-deps", TORCH]


def test_linux_takes_the_cpu_index_when_the_usual_build_is_for_cuda(linux, capsys):
    pip = Pip(said(report("2.13.0", CUDA)), DONE)
    install.install_torch(TORCH, {}, pip, None)
    assert pip.calls[1][:5] == ["install", "--no-deps", TORCH, "--index-url", install.CPU_INDEX]
    assert install.CPU_INDEX in capsys.readouterr().out


def test_a_named_index_is_taken_without_a_question(linux):
    pip = Pip(DONE)
    install.install_torch(TORCH, {"HANDLOOM_TORCH_INDEX": "https://mirror.example/cpu"}, pip, None)
    assert "https://mirror.example/cpu" in pip.calls[0]
    assert len(pip.calls) == 1


def test_cuda_comes_only_when_it_is_asked_for(linux):
    pip = Pip(DONE)
    install.install_torch(TORCH, {"HANDLOOM_ALLOW_CUDA": "1"}, pip, None)
    assert pip.calls == [["install", "--no-deps", TORCH]]


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_other_systems_have_cpu_builds_anyway(linux, monkeypatch, system):
    monkeypatch.setattr(install.platform, "system", lambda: system)
    pip = Pip(DONE)
    install.install_torch(TORCH, {}, pip, None)
    assert pip.calls == [["install", "--no-deps", TORCH]]


@pytest.mark.parametrize(
    ("answers", "source"),
    [
        ([UNREACHABLE], install.USUAL_INDEX),
        ([said(report("2.13.0", CUDA)), UNREACHABLE], install.CPU_INDEX),
        ([said(report("2.13.0", PLAIN)), UNREACHABLE], install.USUAL_INDEX),
    ],
)
def test_an_index_out_of_reach_is_named_with_the_ways_out(linux, answers, source):
    with pytest.raises(install.InstallError) as caught:
        install.install_torch(TORCH, {}, Pip(*answers), None)
    message = " ".join(str(caught.value).split())
    assert f"could not be had from {source}." in message
    for way_out in ("HANDLOOM_TORCH_INDEX", "pip install WHEEL", "HANDLOOM_ALLOW_CUDA=1", UNREACHABLE[2]):
        assert way_out in message


def test_everything_is_installed_under_the_constraints(linux, monkeypatch):
    monkeypatch.setattr(install.sys, "prefix", "an environment")
    monkeypatch.setattr(install, "installed_version", lambda package: "2.13.0+cpu")
    pip = Pip(DONE, DONE)
    install.main(["--dev"], pip)
    assert all(["--constraint", str(install.CONSTRAINTS)] == call[3:5] for call in pip.calls)
    assert pip.calls[0][-2:] == ["pip", "setuptools"]
    assert pip.calls[1][-2:] == ["--editable", f"{ROOT}[dev]"]


def test_a_step_that_fails_says_which_and_what_pip_said(linux, monkeypatch):
    monkeypatch.setattr(install.sys, "prefix", "an environment")
    with pytest.raises(install.InstallError, match=r"(?s)pip and setuptools.*No space left on device"):
        install.main([], Pip((1, "", "ERROR: No space left on device")))


def test_nothing_is_installed_outside_an_environment(monkeypatch):
    monkeypatch.setattr(install.sys, "prefix", install.sys.base_prefix)
    with pytest.raises(install.InstallError, match="python3 -m venv"):
        install.main([], Pip())


def test_a_package_gets_a_marker_only_where_versions_differ():
    resolved = {
        (3, 10): {"numpy": "2.2.6", "rich": "15.0", "tomli": "2.5"},
        (3, 11): {"numpy": "2.4.6", "rich": "15.0"},
        (3, 12): {"numpy": "2.5.5", "rich": "15.0"},
        (3, 13): {"numpy": "2.5.5", "rich": "15.0"},
    }
    assert constraints.constraint_lines(resolved) == [
        "numpy==2.2.6; python_version < '3.11'",
        "numpy==2.4.6; python_version >= '3.11' and python_version < '3.12'",
        "numpy==2.5.5; python_version >= '3.12'",
        "rich==15.0",
        "tomli==2.5",
    ]


@pytest.mark.slow
@pytest.mark.skipif(native.available() is None, reason="there is no C compiler")
def test_a_wheel_brings_kernels_that_need_no_compiler(tmp_path, monkeypatch):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    built = tmp_path / "handloom" / "native" / "built"
    variant = native.variants()[0]
    monkeypatch.setattr(native, "BUILT", built)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.build(variant).parent == built
    assert ctypes.CDLL(str(native.build(variant))).decode_step_bytes
    (built / native.build(variant).name).unlink()
    with pytest.raises(native.NativeUnavailableError, match="no C compiler"):
        native.build(variant)
