"""handloom chat: on a terminal, and with its lines piped in."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

import handloom as package
from handloom.errors import RequestError


@pytest.fixture(scope="module")
def lm(trained_run):
    return package.load(trained_run)


@pytest.fixture
def piped(inside, trained_run):
    def run(*lines, words=()):
        told = "".join(f"{line}\n" for line in lines).encode()
        return inside("chat", trained_run, "--max-new-tokens", "8", "--threads", "1", *words, stdin=told)

    return run


def answer(lm, text, seed=0, **settings):
    settings = {"max_new_tokens": 8, **settings}
    return lm.generate(text, seed=seed, overflow="slide", **settings)


def test_lines_and_answers_make_one_text_that_slides(piped, lm):
    result = piped("The quick", "fox", "", "/history")
    one = answer(lm, "The quick")
    two = answer(lm, f"The quick{one}\nfox", 1)
    three = answer(lm, f"The quick{one}\nfox{two}", 2)
    assert (result.returncode, result.err) == (0, "")
    whole = f"The quick{one}\nfox{two}{three}"
    assert result.out == f"{one}\n{two}\n{three}\n{whole}\n"
    assert len(lm.tokenizer.encode(whole)) > lm.config.context_length


def test_an_empty_first_line_lets_the_model_begin(piped, lm):
    assert piped("").out == answer(lm, None) + "\n"


def test_retry_edit_and_undo_change_the_text(piped, lm):
    result = piped("The", "/retry", "/edit fox", "/history", "/undo", "/undo", "/history")
    assert "Error: Nothing has been written yet." in result.err
    answers = [answer(lm, "The", 0), answer(lm, "The", 1), answer(lm, "fox", 2)]
    assert result.out == "\n".join([*answers, "fox" + answers[2], "", ""])


def test_settings_change_on_the_fly_and_are_shown(piped, lm):
    result = piped("/temperature 0", "/max_new_tokens 5", "/stop qq", "The", "/settings", "/top-k 3", "/top-k off")
    assert result.err == ""
    assert result.out.startswith(answer(lm, "The", temperature=0, max_new_tokens=5) + "\n")
    for line in ("/temperature 0", "/max-new-tokens 5", "/top-k off", "/stop 'qq'", "/forced-eos False"):
        assert line in result.out.splitlines()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/temperature -1", "temperature is -1; it must be"),
        ("/temperature warm", "temperature is 'warm'; it must be a number"),
        ("/temprature 1", "Did you mean '/temperature'?"),
        ("/qiut", "There is no command /qiut. Did you mean '/quit'?"),
        ("/Undo", "There is no command /Undo. Did you mean '/undo'?"),
        ("/usr/bin", "// begins a text with a /."),
        ("/temperature", "/temperature needs a value."),
        ("/undo 3", "/undo takes no value."),
        ("/logit-bias 999999=5", "There is no token 999999;"),
        ("/stop a\\b", "has a backslash that is not part of an escape"),
        ("/save ~nobody-here/x", "there is no such user"),
        ("/save fox.txt/x", "Could not write fox.txt/x: Not a directory."),
        ("/save .", "is a folder"),
        ("/save ", "/save needs the name of a file"),
        ("/num_beams 3", "num_beams cannot be set in a chat"),
        ("/forced-eos maybe", "forced_eos is 'maybe'"),
        ("/nonsense", "There is no command /nonsense"),
        ("/save", "/save needs the name of a file"),
        ("/save missing/story.txt", "Could not write missing/story.txt: No such file or directory."),
        ("/retry", "Nothing has been written yet"),
    ],
)
def test_a_mistake_is_told_and_the_chat_goes_on(piped, lm, line, problem, tmp_path):
    (tmp_path / "fox.txt").touch()
    result = piped(line, "The")
    assert result.returncode == 0
    assert problem in result.err
    assert result.err.count("\n") == 1
    assert result.out.endswith(answer(lm, "The") + "\n")


def test_save_writes_the_text(piped, lm, tmp_path):
    result = piped("The \\", "狐 //", "/save story.txt", "/quit", "never read")
    text = "The \n狐 //"
    assert (tmp_path / "story.txt").read_text(encoding="utf-8") == text + answer(lm, text) + "\n"
    assert result.err == "Saved to story.txt.\n"
    assert result.out == answer(lm, text) + "\n"


@pytest.mark.parametrize("word", ["/quit ", "/exit", "/exit  ", " /quit"])
def test_blanks_around_the_word_that_leaves_do_not_matter(piped, word):
    result = piped(word, "never read")
    assert (result.returncode, result.out, result.err) == (0, "", "")


def test_clear_takes_back_all_turns_and_keeps_the_settings(piped, lm):
    result = piped("/temperature 0", "The", "fox", "/clear", "/history", "The", "/history")
    greedy = answer(lm, "The", temperature=0)
    assert result.out.endswith(f"\n\n{greedy}\nThe{greedy}\n")
    assert result.err == ""


def test_save_never_writes_over_a_file_that_it_did_not_make(piped, tmp_path):
    (tmp_path / "mine.txt").write_text("years of work", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to("mine.txt")
    result = piped("The", "/save mine.txt", "/save link.txt", "/save new.txt", "fox", "/save ./new.txt", "/history")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "years of work"
    assert result.err.count("exists already; it is not written over.") == 2
    assert result.out.endswith((tmp_path / "new.txt").read_text(encoding="utf-8"))


def test_a_line_break_can_be_typed_as_stop_string(piped, lm):
    whole = answer(lm, "The", max_new_tokens=40)
    assert "\n" not in whole
    for typed, stop in ((whole[3], whole[3]), ("\\n", "\n"), ("\\\\q", "\\q"), ("\\t\\n", "\t\n")):
        result = piped(f"/stop {typed}", "/max-new-tokens 40", "The", "/settings")
        assert result.out.startswith(answer(lm, "The", max_new_tokens=40, stop=stop) + "\n")
        assert f"/stop {stop!r}" in result.out


FAILURES = [
    OSError(5, "Input/output error"),
    MemoryError(),
    RuntimeError("a kernel failed"),
    RequestError("Every token is forbidden.", "Loosen it."),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_error_in_mid_answer_costs_neither_the_conversation_nor_changes_it(piped, lm, monkeypatch, error):
    """The answer to "fox" fails after its first piece."""
    stream = package.LanguageModel.stream

    def failing(self, prompt, *args, **kwargs):
        for event in stream(self, prompt, *args, **kwargs):
            yield event
            if prompt.endswith("fox"):
                raise error

    monkeypatch.setattr(package.LanguageModel, "stream", failing)
    result = piped("The", "fox", "/edit fox", "/retry", "/history")
    assert result.returncode == 0
    assert result.err.count("Error: ") == 2
    assert result.out.endswith(f"\nThe{answer(lm, 'The', 1)}\n")


def test_a_slash_may_begin_a_text_and_help_is_there(piped, lm):
    assert piped("//etc").out == answer(lm, "/etc") + "\n"
    told = piped("/help").out
    for command in ("/retry", "/edit", "/undo", "/save", "/history", "/settings", "/quit", "/temperature"):
        assert command in told


def test_lines_that_are_no_text_end_the_chat_with_a_clear_error(inside, trained_run):
    result = inside("chat", trained_run, stdin=b"caf\xe9\n")
    assert result.returncode == 2
    assert "Line 1 of standard input is not UTF-8" in result.err


@pytest.fixture
def terminal(tmp_path, trained_run):
    """`terminal(*words)`: a chat on a terminal of its own; gives its process, and `until(text)`."""
    pty = pytest.importorskip("pty")
    started = []

    def run(*words):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "handloom", "chat", str(trained_run), "--threads", "1", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONUTF8": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)
        started.append((process, ours))

        def until(wanted, limit=60):
            seen, end = b"", time.monotonic() + limit
            while wanted.encode() not in seen:
                ready, _, _ = select.select([ours], [], [], max(0, end - time.monotonic()))
                assert ready, f"waited for {wanted!r}, saw {seen.decode()!r}"
                seen += os.read(ours, 4096)
            return seen.decode("utf-8", errors="strict")

        return process, ours, until

    yield run
    for process, ours in started:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_stops_the_answer_and_keeps_it(terminal, tmp_path):
    process, keys, until = terminal("--max-new-tokens", "1000000", "--temperature", "1.5")
    until("> ")
    os.write(keys, b"The\n")
    shown = until("The\r\n")
    while len(shown) < 30:
        shown += os.read(keys, 100).decode("utf-8", errors="replace")
    process.send_signal(signal.SIGINT)
    shown += until("\r\n> ")
    os.write(keys, b"/save story.txt\n")
    until("Saved to story.txt.\r\n> ")
    saved = (tmp_path / "story.txt").read_bytes()
    assert saved.startswith(b"The")
    assert len(saved) > 10
    # A signal between the prompt and the wait for keys is noticed with the next key only, so send some.
    for _ in range(50):
        process.send_signal(signal.SIGINT)
        if select.select([keys], [], [], 0.5)[0]:
            break
    until("/quit or Ctrl-D leaves.\r\n> ")
    os.write(keys, b"\x04")
    assert process.wait(timeout=60) == 0


def test_stats_follow_each_answer(inside, trained_run):
    lines = b"The\n/history\n/retry\n/settings\nfox\n"
    result = inside("chat", "--model", trained_run, "--max-new-tokens", "4", "--stats", stdin=lines)
    assert result.returncode == 0, result.err
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["Stats"] * 3
    assert all("; fp32" in line for line in result.err.splitlines())
