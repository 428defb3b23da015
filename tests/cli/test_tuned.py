"""handloom classify, and talking with a model that learned conversations."""

from __future__ import annotations

import json

import pytest

from handloom.checkpoints import native
from handloom.loading import load
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message


@pytest.fixture
def spam(trained_run):
    """A model with the labels ham and spam."""
    return trained_run.parent / "spam"


def test_the_labels_of_a_text_with_their_probabilities(inside, spam):
    found = load(spam).classify("Hello")
    result = inside("classify", "Hello", "--model", spam, "--threads", "1")
    assert (result.returncode, result.err) == (0, "")
    pairs = [line.split() for line in result.out.splitlines()]
    assert [label for label, _ in pairs] == sorted(found.probabilities, key=lambda name: -found.probabilities[name])
    assert [share for _, share in pairs] == [f"{found.probabilities[label]:.1%}" for label, _ in pairs]
    assert inside("classify", "-", "--model", spam, stdin=b"Hello\n").out == result.out


def test_several_texts_from_a_file_and_json(inside, spam, tmp_path):
    lines = ["Hello", "The fox", "Café"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wanted = [load(spam).classify(line) for line in lines]
    shown = inside("classify", "--texts", "texts.txt", "--model", spam, "--batch-size", "2").out.splitlines()
    for line, text, found in zip(shown, lines, wanted, strict=True):
        assert line.split(maxsplit=2) == [found.label, f"{found.probability:.1%}", text]
    records = [
        json.loads(line)
        for line in inside("classify", "--texts", "texts.txt", "--model", spam, "--json").out.splitlines()
    ]
    for record, text, found in zip(records, lines, wanted, strict=True):
        assert (record["text"], record["label"]) == (text, found.label)
        assert record["precision"] == "fp32"
        assert record["probabilities"] == pytest.approx(found.probabilities, rel=1e-5)


def test_a_text_beyond_the_context_can_be_cut(inside, spam, tmp_path):
    (tmp_path / "long.txt").write_text("The quick brown fox " * 20, encoding="utf-8")
    refused = inside("classify", "--texts", "long.txt", "--model", spam)
    assert (refused.returncode, refused.out) == (2, "")
    assert inside("classify", "--texts", "long.txt", "--model", spam, "--overlong", "truncate").returncode == 0


# Conversations


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A model that says of itself that it learned conversations. Not to be changed."""
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT
    from handloom.tokenizer.train import train_bpe

    tokenizer = train_bpe(["User:\nAssistant:\nHello there"] * 5, 280)
    folder = tmp_path_factory.mktemp("talker") / "run"
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length=64, layers=1, heads=2, embed_dim=16), 0)
    native.save(folder, model, tokenizer, {"template": CHAT_TEMPLATE})
    return folder


def test_generate_answers_with_such_a_model_and_continues_with_raw(inside, talker):
    lm = load(talker)
    assert lm.template == CHAT_TEMPLATE
    words = ("generate", "Hello", "--model", talker, "--max-new-tokens", "8")
    note = "Note: This model has a chat template, so it answers; --no-chat-template continues the text.\n"
    answer = lm.generate([Message("user", "Hello")], max_new_tokens=8)
    for more in ((), ("--stream",)):
        assert inside(*words, *more)[1:] == (answer + "\n", note)
    record = json.loads(inside(*words, "--json").out)
    assert (record["prompt"], record["text"]) == ("Hello", answer)
    assert record["prompt_tokens"] == len(lm.prompt_ids([Message("user", "Hello")]))
    raw = inside(*words, "--no-chat-template")
    assert raw[1:] == ("Hello" + lm.generate("Hello", max_new_tokens=8) + "\n", "")


def test_a_chat_with_such_a_model_is_a_conversation(inside, talker):
    lm = load(talker)
    told = "Hello\n\n/system Be brief.\n/retry\n/history\n/help\n"
    result = inside("chat", talker, "--max-new-tokens", "6", stdin=told.encode())
    first = lm.generate([Message("user", "Hello")], max_new_tokens=6)
    system = Message("system", "Be brief.")
    second = lm.generate([system, Message("user", "Hello")], max_new_tokens=6, seed=1)
    history = f"System:\nBe brief.\n\nUser:\nHello\n\nAssistant:\n{second}"
    assert result.out.startswith(f"{first}\n\n{second}\n{history}\nWrite a line, and the model answers it.")
    assert result.err.startswith("Error: An empty line asks nothing.")
    flagged = inside("chat", talker, "--max-new-tokens", "6", "--system", "Be brief.", stdin=b"Hello\n")
    assert flagged.out == lm.generate([system, Message("user", "Hello")], max_new_tokens=6) + "\n"


def test_a_chat_tells_when_turns_are_out_of_sight(inside, talker):
    result = inside("chat", talker, "--max-new-tokens", "6", stdin=b"Hello there\n" * 6)
    assert result.returncode == 0
    assert "Note: The first turn is out of the model's context of 64 tokens." in result.err


def test_a_template_of_a_later_version_is_refused(inside, talker, tmp_path):
    checkpoint = native.open_checkpoint(talker)
    native.save(tmp_path / "later", checkpoint.load_model(), checkpoint.load_tokenizer(), {"template": "turns-9"})
    result = inside("chat", "later")
    assert result.returncode == 2
    assert "was trained with the chat template 'turns-9'" in result.err


def test_evaluate_and_compare_say_that_they_do_not_measure_labels(inside, spam, trained_run, tmp_path):
    (tmp_path / "fox.txt").write_text("The quick brown fox jumps over the lazy dog. " * 8, encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"context": "The", "choices": ["fox", "dog"], "answer": 0}\n' * 3)
    for data in ("fox.txt", "q.jsonl"):
        result = inside("evaluate", spam, "--data", data, "--json")
        assert (result.returncode, "classification head (ham, spam), which is not measured" in result.err) == (0, True)
    small = ("--data", "fox.txt", "--general", "fox.txt", "--training", "fox.txt", "--n", "1")
    result = inside("compare", trained_run, spam, *small, "--max-new-tokens", "2", "--overflow", "slide")
    assert result.returncode == 0, result.err
    assert result.err.count("classification head (ham, spam)") == 1
