"""handloom generate: prompts from everywhere, text as it comes, and a quiet end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import handloom as package


@pytest.fixture(scope="module")
def lm(trained_run):
    return package.load(trained_run)


@pytest.fixture
def generate(inside, trained_run):
    def run(*words, stdin=b""):
        result = inside("generate", *words, "--model", trained_run, "--threads", "1", stdin=stdin)
        assert result.returncode == 0, result.err
        assert result.err == ""
        return result.out

    return run


SHORT = ("--max_new_tokens", "8")


def test_text_with_and_without_streaming_is_that_of_python(generate, lm):
    wanted = "The" + lm.generate("The", max_new_tokens=8, top_p=0.9, seed=3) + "\n"
    settings = ("The", *SHORT, "--top_p", "0.9", "--seed", "3")
    assert generate(*settings) == wanted
    assert generate(*settings, "--stream") == wanted


def test_prompts_from_standard_input_and_from_a_file(generate, lm, tmp_path):
    text = "The 狐"
    wanted = text + lm.generate(text, max_new_tokens=8) + "\n"
    assert generate("-", *SHORT, stdin=f"{text}\r\n".encode()) == wanted
    (tmp_path / "prompt.txt").write_bytes(f"\ufeff{text}\n".encode())
    assert generate("--prompt-file", "prompt.txt", *SHORT) == wanted
    assert generate("--new-document", *SHORT) == lm.generate(None, max_new_tokens=8) + "\n"


def test_json_is_one_object_a_line_and_knows_why_each_text_ended(generate, lm):
    lines = generate("The", "-n", "3", "--json", *SHORT, "--stop", "o", "--stop", "u").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["row"] for record in records] == [0, 1, 2]
    for record in records:
        assert record["prompt"] == "The"
        assert record["finish_reason"] in ("stop", "length")
        assert "o" not in record["text"]
        assert "u" not in record["text"]
        assert len(record["ids"]) == 8 or record["finish_reason"] != "length"
    assert records[0]["text"] == lm.generate("The", max_new_tokens=8, stop=["o", "u"])


def test_a_file_of_prompts_gives_what_each_gives_alone(generate, tmp_path):
    lines = ["The", "The quick brown", "fox", "T", "jumps over"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for batch_size in (1, 2, 16):
        out = generate("--prompts", "prompts.txt", "-n", "2", *SHORT, "--batch-size", batch_size)
        records = [json.loads(line) for line in out.splitlines()]
        assert [record["prompt"] for record in records] == [line for line in lines for _ in range(2)]
        for number, line in enumerate(lines):
            alone = generate(line, "-n", "2", "--json", *SHORT).splitlines()
            assert records[2 * number : 2 * number + 2] == [json.loads(one) for one in alone]


def test_json_lines_may_be_texts_or_messages_and_one_that_fails_stops_no_other(inside, trained_run, lm, tmp_path):
    lines = [
        '"The"',
        "no JSON",
        '{"prompt": null}',
        '{"prompt": "fox", "top_p": 1}',
        '{"messages": []}',
        '""',
        '"fox"',
        "7",
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = inside("generate", "--prompts", "prompts.jsonl", "--model", trained_run, *SHORT, "--batch", "2")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert (len(records), result.returncode) == (len(lines), 2)
    assert [record["prompt"] for record in records] == ["The", None, None, None, [], "", "fox", 7]
    texts = {at: record["text"] for at, record in enumerate(records) if "text" in record}
    assert texts == {at: lm.generate(prompt, max_new_tokens=8) for at, prompt in ((0, "The"), (2, None), (6, "fox"))}
    assert records[1]["error"].startswith("Line 2 of prompts.jsonl is not JSON: Expecting value")
    assert records[3]["error"].startswith(
        "Line 4 of prompts.jsonl has 'prompt', 'top_p'; it may have 'prompt' or 'messages'"
    )
    assert "does not have a chat template" in records[4]["error"]
    assert records[5]["error"].startswith("The prompt is empty")
    assert "it must be text, or a list of messages" in records[7]["error"]
    assert result.err == "Error: 5 prompts failed. Their records say why, as 'error'.\n"


def test_a_prompt_that_is_too_long_fails_alone(inside, trained_run, tmp_path):
    (tmp_path / "prompts.txt").write_text("The\n" + "long " * 40 + "\nfox\n", encoding="utf-8")
    result = inside("generate", "--prompts", "prompts.txt", "--model", trained_run, *SHORT)
    records = [json.loads(line) for line in result.out.splitlines()]
    assert ["error" in record for record in records] == [False, True, False]
    assert "--overflow" in records[1]["error"]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently there")
def test_ctrl_c_loses_no_text_that_has_begun(start, trained_run, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('""\n"The"\n"fox"\n"waits"\n', encoding="utf-8")
    command = ("generate", "--prompts", "prompts.jsonl", "--model", trained_run, "--overflow", "slide")
    process = start(*command, "--batch-size", "2", "--max-new-tokens", "1000000", "--stats")
    first = process.stdout.readline()
    assert json.loads(first)["error"].startswith("The prompt is empty")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["prompt"], record["finish_reason"]) for record in records] == [("The", "cancel"), ("fox", "cancel")]
    assert all(record["ids"] for record in records)
    assert re.fullmatch(r"Stats: \d+ prompt tokens, .*\n\nStopped\.\n", err.decode())
    assert process.returncode == 130


def test_log_probabilities_and_echo_in_json(generate, lm):
    out = generate("The quick", "--json", "--logprobs", "3", "--echo", *SHORT, "--temperature", "0")
    record = json.loads(out)
    assert [token["id"] for token in record["logprobs"]] == record["ids"]
    for token in record["logprobs"]:
        assert token["top"][0]["id"] == token["id"]  # greedy takes the likeliest
        assert token["top"][0]["logprob"] == token["logprob"] < 0
        assert len(token["top"]) == 3
        assert bytes(token["bytes"]) == lm.tokenizer.token_bytes(token["id"])
    echoed = record["prompt_logprobs"]
    assert "".join(token["text"] for token in echoed) == "The quick"
    assert [token["logprob"] is None for token in echoed] == [True] + [False] * (len(echoed) - 1)
    plain = json.loads(generate("The quick", "--json", *SHORT, "--temperature", "0"))
    assert plain == {name: value for name, value in record.items() if "logprobs" not in name}


def test_stats_are_told_on_standard_error(inside, trained_run):
    for more in ((), ("--stream",), ("--num-beams", "2")):
        result = inside("generate", "The", "--model", trained_run, *SHORT, "--stats", *more)
        assert result.returncode == 0, result.err
        assert re.fullmatch(
            r"Stats: \d+ prompt tokens, first token after \d+\.\d{3} s, [1-8] new tokens in \d+\.\d{3} s"
            r"(, [\d.,]+ tokens/s after the first)?; fp32( weights, C kernels \(\w+\)|, PyTorch, since .+)\.\n",
            result.err,
        )
    settings = (
        "--temperature",
        "0",
        "--max-new-tokens",
        "400",
        "--overflow",
        "slide",
        "--prompt-lookup-num-tokens",
        "2",
    )
    result = inside("generate", "The fox The fox", "--model", trained_run, "--stats", *settings)
    assert re.search(
        r"\nStats: Speculation: \d+ of \d+ proposed tokens accepted in \d+ pass(es)?; a pass costs [\d.]+ tokens\.\n$",
        result.err,
    )


def test_auto_is_the_default_and_is_noted_and_recorded(inside, trained_run, lm, monkeypatch):
    greedy = ("generate", "The", "--model", trained_run, *SHORT, "--temperature", "0", "--json")
    monkeypatch.setenv("HANDLOOM_PRECISION", "int8")
    automatic, asked, exact = (
        inside(*greedy, *more) for more in ((), ("--precision", "int8"), ("--precision", "fp32"))
    )
    assert "Note: int8 weights (--precision fp32 for exact results).\n" in automatic.err
    assert "exact results" not in asked.err + exact.err
    assert automatic.out == asked.out
    assert json.loads(automatic.out)["precision"] == "int8"
    assert json.loads(exact.out)["precision"] == "fp32"
    assert json.loads(exact.out)["text"] == lm.generate("The", max_new_tokens=8, temperature=0)
    assert "; int8 weights, " in inside(*greedy, "--stats").err


def test_settings_of_writing_reach_it(generate, lm):
    greedy = ("The", *SHORT, "--temperature", "0")
    text = generate(*greedy)
    first = lm.tokenizer.encode(lm.generate("The", max_new_tokens=1, temperature=0))
    assert generate(*greedy, "--logit-bias", f"{first[0]}=-100") != text
    assert (
        generate(*greedy, "--num-beams", "3", "--stop", "o")
        == "The" + lm.generate("The", max_new_tokens=8, num_beams=3, stop="o") + "\n"
    )
    words = ("--forced-eos", "--min-new-tokens", "8", "--json", "--no-repeat-ngram-size", "1")
    record = json.loads(generate(*greedy, *words))
    assert (record["finish_reason"], len(record["ids"])) == ("stop", 8)
    assert len(set(record["ids"])) == 8


def test_several_texts_are_told_apart(generate, lm):
    out = generate("The", "-n", "2", *SHORT)
    first, second = out.split("--- 2\n")
    assert first == "--- 1\nThe" + lm.generate("The", max_new_tokens=8) + "\n"
    assert second.startswith("The")


def test_output_is_utf8_whatever_the_system_prefers(handloom, trained_run):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = handloom("generate", "-", "--model", trained_run, *SHORT, stdin="狐👋".encode(), **plain)
    assert (result.returncode, result.err) == (0, "")
    assert result.out.startswith("狐👋")


def test_a_torn_newest_checkpoint_is_told_beside_the_text(inside, trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    older, newest = sorted((run / "checkpoints").iterdir())
    (newest / "model.safetensors").unlink()
    result = inside("generate", "The", "--model", run, *SHORT)
    assert result.returncode == 0
    assert result.out == "The" + package.load(older).generate("The", max_new_tokens=8) + "\n"
    assert result.err == (
        f"Note: {newest} is incomplete: its file model.safetensors is missing. {older.name} is used instead.\n"
    )


def long(trained_run):
    return ("generate", "The", "--model", trained_run, "--max_new_tokens", "1000000", "--overflow", "slide", "--stream")


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently there")
def test_ctrl_c_ends_quietly_and_keeps_what_was_written(start, trained_run):
    process = start(*long(trained_run))
    assert process.stdout.read(20).startswith(b"The")
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert complaint.decode() == "\nStopped.\n"
    assert process.returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="pipes close differently there")
def test_a_reader_that_leaves_is_no_error(start, trained_run):
    process = start(*long(trained_run))
    process.stdout.read(20)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


@pytest.mark.skipif(os.name == "nt", reason="pipes close differently there")
def test_a_reader_that_was_never_there_is_no_error(start):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(start("--version").args, stdout=write, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    os.close(write)
    assert process.communicate(timeout=60)[1] == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_one_clear_paragraph(start):
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            start("--version").args, stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        complaint = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2
    assert complaint.startswith("Error: The system refused: No space left on device.")
    assert complaint.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(handloom):
    wrong = ("train", "--steps", "0")
    result = handloom(*wrong, "--debug")
    assert result.err.startswith("Traceback")
    assert "The setting steps is 0" in result.err
    assert "Traceback" not in handloom(*wrong).err


def test_debug_behind_two_hyphens_is_text(inside):
    assert inside("tokenize", "--", "--debug").out.splitlines()[1] == "--|debug"


@pytest.mark.parametrize("precision", ["auto", "fp16", "int8", "int4"])
def test_a_precision_gives_the_text_that_python_gives_in_it(generate, trained_run, precision):
    wanted = package.load(trained_run, precision=precision).generate("The", max_new_tokens=8, temperature=0)
    assert generate("The", *SHORT, "--temperature", "0", "--precision", precision) == f"The{wanted}\n"


def test_a_precision_that_this_processor_lacks_is_refused_with_a_remedy(inside, trained_run, monkeypatch):
    monkeypatch.setattr("handloom.quantization.precision.has_native_bf16", lambda: False)
    refused = inside("generate", "The", "--model", trained_run, "--precision", "bf16")
    assert refused.returncode == 2
    assert "bfloat16" in refused.err
    assert "--precision to int8" in refused.err
