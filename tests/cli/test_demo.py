"""The demo, shortened: the whole way through the terminal, and what it refuses to replace."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from handloom.cli.main import main


def test_the_demo_learns_writes_and_says_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--minutes", "0.03"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(cell_len, shown.splitlines())) <= 80
    bits = [float(b) for b in re.findall(r"(\d\.\d{3}) bits/byte", shown)]
    assert bits[0] > bits[-1]
    assert 'handloom generate "The" --model runs/demo --stream' in shown
    summary = json.loads(Path("runs/demo/summary.json").read_text(encoding="utf-8"))
    assert summary["finished"]
    for prompt in ("The", "Return the", "Python is"):
        assert f"\n{prompt}" in shown

    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "runs/demo", "--steps", str(summary["steps"] + 1)])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--minutes", "0.03"])
    assert ended.value.code == 2
    assert "not an untouched demo" in capsys.readouterr().err
