"""The corpora of the running Python: what is in them, and that nothing is imported to get it."""

from __future__ import annotations

import sys

import pytest

from handloom.data.builtin import BUILTIN, python_docs, python_source
from handloom.errors import DataError


def library(folder, **files):
    for name, text in {"pydoc_data/topics.py": "topics = {'b': '\\nB.\\n', 'a': r'''A\n'''}\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_docstrings_come_in_source_order_and_cleaned(tmp_path):
    code = (
        '"""Module.\n\n    Indented.\n    """\n'
        'raise SystemExit  # would end us if it were imported\nclass A:\n    "Class."\n    def f(self):\n'
        '        "Method."\n        def g(): "Inner."\n'
        'if x:\n    async def h(): "Half \\ud800 pair."\nelse:\n    "no docstring"\n'
        'try:\n    pass\nexcept E:\n    def i(): "Handler."\n'
    )
    found = dict(python_docs(library(tmp_path, **{"m.py": code, "n.py": "x = '\\d'", "bad.py": "def"})))
    assert list(found) == ["m", "topics/a", "topics/b"]
    assert found["m"] == "Module.\n\nIndented.\n\nClass.\n\nMethod.\n\nInner.\n\nHalf ? pair.\n\nHandler.\n"
    assert (found["topics/a"], found["topics/b"]) == ("A\n", "B.\n")


def test_tests_and_packages_are_left_out(tmp_path):
    left_out = ("test/a.py", "json/tests/a.py", "site-packages/a.py", "config-3.11/a.py", "_sysconfigdata_x.py")
    files = dict.fromkeys(("a.py", "json/tool.py", *left_out), "'x'")
    assert [title for title, _ in python_source(library(tmp_path, **files))] == ["a.py", "json/tool.py"]


def test_the_real_ones_are_as_large_as_promised():
    """2 MB of English and 11 MB of code, within what releases of Python differ by."""
    before = set(sys.modules)
    docs = list(python_docs())
    assert set(sys.modules) == before
    assert 1.6e6 < sum(len(text.encode()) for _, text in docs) < 4e6
    assert 60 < sum(title.startswith("topics/") for title, _ in docs) < 120
    assert 8e6 < sum(len(text.encode()) for _, text in python_source()) < 18e6
    titles = [title for title, _ in docs]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_python_without_sources_is_told_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda which: str(tmp_path))
    with pytest.raises(DataError, match=r"lacks its library sources.*Install Python with its sources"):
        list(BUILTIN[name]())


def test_a_python_without_topics(tmp_path):
    with pytest.raises(DataError, match="lacks its language reference"):
        list(python_docs(tmp_path))
