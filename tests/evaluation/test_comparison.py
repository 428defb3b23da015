"""A comparison of small models without a disk: what it finds, and that it finds the same again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from handloom.data.tokenized import prepare
from handloom.errors import CheckpointError, DataError, RequestError
from handloom.evaluation.compare import compare
from handloom.evaluation.comparison_config import ComparisonConfig
from handloom.evaluation.provenance import ModelEntry, Provenance
from handloom.evaluation.scoring import score_text, token_nll_of_ids
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.train import train_bpe

LINE = "The loom stands in the corner, and every morning the weaver sits down before it. "


@pytest.fixture
def texts(tmp_path):
    """Held-out and general text: words of the line in other orders."""
    chance = np.random.default_rng(0)
    for name in ("held_out", "general"):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(22):
            (folder / f"{number}.txt").write_text(" ".join(chance.permutation(LINE.split())), encoding="utf-8")
    return tmp_path


@pytest.fixture
def shelf(tmp_path, byte_tokenizer, lively):
    """Models by name; `find` looks there. `small` has another tokenizer, `tuned` was tuned from `base`."""
    trained = {"settings": {"data": [str(tmp_path / "learned.txt")]}, "progress": {"step": 7}}
    (tmp_path / "learned.txt").write_text(LINE * 30, encoding="utf-8")
    learned = train_bpe([LINE], 300)
    made = {}

    def put(name, model, tokenizer, training):
        key = prepare(str(tmp_path / "learned.txt"), tokenizer).key
        training = {**training, "data": key} if training else {}
        lm = LanguageModel(model, tokenizer)
        made[name] = ModelEntry(
            name, tmp_path / name, model.config.context_length, lambda: lm, lambda: tokenizer, training
        )

    base = lively(0, context_length=32)
    tuned = lively(0, context_length=32)
    with torch.no_grad():
        tuned.lm_head.weight.mul_(1.2)
    put("base", base, byte_tokenizer, trained)
    tuning = {"settings": {**trained["settings"], "model": "base", "method": "norms"}}
    put("tuned", tuned, byte_tokenizer, tuning)
    put("small", lively(2, context_length=32, vocab_size=learned.vocab_size), learned, trained)
    put("foreign", lively(3, context_length=32), byte_tokenizer, {})

    def find(name, run):
        if name not in made:
            raise CheckpointError(f"There is no model at {name}.", "Name another.")
        return made[name]

    find.made = made
    return find


@pytest.fixture
def question(texts):
    return ComparisonConfig(
        prompts=("The", "morning"),
        n=2,
        request=GenerationConfig(max_new_tokens=20, seed=3),
        data=(str(texts / "held_out"),),
    )


@pytest.fixture
def report(shelf, question):
    return compare(["base", "tuned", "small", "foreign"], question, shelf)


def test_every_measure_is_there_for_every_model(report):
    assert [model.name for model in report.models] == ["base", "tuned", "small", "foreign"]
    assert [model.tokenizer for model in report.models] == ["A", "A", "B", "A"]
    assert not report.one_tokenizer
    for model in report.models:
        assert len(model.samples) == 4
        assert [one.prompt for one in model.samples] == ["The", "The", "morning", "morning"]
        assert model.held_out.bits_per_byte.standard_error > 0
        assert 0 <= model.calibration.error <= 1
        assert len(model.excerpts) == 2
        assert report.times.speeds[model.name].tokens_per_second > 0
    base = report.models[0]
    assert base.cache_bytes == 2 * 2 * 32 * 16 * 4
    assert base.weight_bytes == 4 * base.parameters
    assert "cannot be compared with each other" in " ".join(report.notes)
    assert report.models[3].memorization is None
    assert "does not record" in report.models[3].no_memorization


def test_the_surprise_at_a_text_of_its_own_is_what_reading_it_gives(report, question, shelf):
    for model in report.models:
        lm = shelf(model.name, None).open()
        again = lm.complete_batch(question.prompts, question.request, question.n)
        ids = [one.ids for done in again for one in done.completions]
        for one, mine in zip(model.samples, ids, strict=True):
            prompt = lm.tokenizer.encode(one.prompt)
            nats = np.concatenate(list(token_nll_of_ids(lm.model, [*prompt, *mine], context_length=32)))[
                len(prompt) - 1 :
            ]
            assert (one.tokens, one.nats) == (len(mine), pytest.approx(float(nats.sum()), rel=1e-4))
            assert sum(span.nats for span in one.spans) <= one.nats + 1e-9  # half a character at the end is no span


def test_all_models_have_the_same_prompts_seeds_and_settings(shelf, question):
    shelf.made["twin"] = ModelEntry(
        "twin", shelf.made["base"].folder / "elsewhere", 32, shelf.made["base"].open, shelf.made["base"].load_tokenizer
    )
    one, two = compare(["base", "twin"], question, shelf).models
    assert [each.text for each in one.samples] == [each.text for each in two.samples]
    assert one.samples[0].text != one.samples[1].text
    assert one.held_out.bits_per_byte == two.held_out.bits_per_byte
    assert one.calibration == two.calibration


def test_what_a_tuned_model_forgot_is_measured_on_general_text(shelf, question, texts, byte_tokenizer):
    asked = ComparisonConfig(**{**question.__dict__, "general": (str(texts / "general"),)})
    general = [path.read_text(encoding="utf-8") for path in sorted((texts / "general").iterdir())]
    want = {name: score_text(shelf(name, None).open(), general).bits_per_byte.value for name in ("base", "tuned")}
    for names in (["base", "tuned"], ["tuned", "small"]):  # the base need not take part
        (forgot,) = compare(names, asked, shelf).forgetting
        assert (forgot.model, forgot.base) == ("tuned", "base")
        assert forgot.before.bits_per_byte.value == pytest.approx(want["base"])
        assert forgot.after.bits_per_byte.value == pytest.approx(want["tuned"])
        assert forgot.difference.value == pytest.approx(want["tuned"] - want["base"])
        assert forgot.difference.standard_error < forgot.before.bits_per_byte.standard_error
        clear = abs(forgot.difference.value) > 1.96 * forgot.difference.standard_error
        assert forgot.verdict == ("forgot" if clear and forgot.difference.value > 0 else forgot.verdict)
        assert clear == (forgot.verdict != "no clear difference")


def test_general_text_is_by_default_what_the_base_held_out(shelf, question, tmp_path):
    report = compare(["tuned", "small"], question, shelf)
    assert report.general.source == f"what base held out of {tmp_path / 'learned.txt'}"
    assert compare(["base", "small"], question, shelf).general is None


def test_held_out_text_is_by_default_what_the_first_run_held_out(shelf, question, tmp_path):
    asked = ComparisonConfig(**{**question.__dict__, "data": ()})
    report = compare(["foreign", "small"], asked, shelf)
    assert report.held_out.source == f"what small held out of {tmp_path / 'learned.txt'}"


def test_a_parrot_is_caught_and_text_that_is_not_held_out_too(shelf, question, tmp_path, byte_tokenizer):
    class Parrot(LanguageModel):
        def complete_batch(self, prompts, config=None, n=1, **settings):
            line = self.tokenizer.encode(LINE * 3)
            done = super().complete_batch(prompts, config, n, **settings)
            from dataclasses import replace

            def parroted(one):
                return replace(one, text=LINE * 3, ids=tuple(line), logprobs=(one.logprobs or ())[:1] * len(line))

            return [replace(each, completions=tuple(map(parroted, each.completions))) for each in done]

    model = shelf.made["base"].open().model
    shelf.made["parrot"] = ModelEntry(
        "parrot", tmp_path / "parrot", 32, lambda: Parrot(model, byte_tokenizer), lambda: byte_tokenizer,
        shelf.made["base"].training,
    )  # fmt: skip
    asked = ComparisonConfig(**{**question.__dict__, "data": (str(tmp_path / "learned.txt"),)})
    report = compare(["parrot", "base"], asked, shelf)
    parrot, base = (model.memorization for model in report.models)
    assert parrot.texts.share == 1.0
    assert parrot.texts.longest.text == LINE * 3
    assert base.texts.share in (0.0, None)
    assert parrot.held_out.share == 1.0
    notes = " ".join(report.notes)
    assert "100% of the 8-grams of the held-out text stand in the training text of parrot" in notes


def test_a_named_training_text_is_searched_for_all(shelf, question, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("something else entirely", encoding="utf-8")
    asked = ComparisonConfig(**{**question.__dict__, "training": (str(other),)})
    for model in compare(["base", "foreign"], asked, shelf).models:
        assert model.memorization.searched == str(other)
    with pytest.raises(DataError, match=r"nothing\.txt"):
        compare(["base", "foreign"], ComparisonConfig(**{**asked.__dict__, "training": ("nothing.txt",)}), shelf)


def test_two_runs_find_the_same_but_for_times(shelf, question):
    one, two = (compare(["base", "tuned", "small"], question, shelf).to_dict() for _ in range(2))
    for each in (one, two):
        assert set(each.pop("times")) == {"date", "seconds", "peak_memory_bytes", "speeds"}
    assert json.dumps(one, allow_nan=False) == json.dumps(two, allow_nan=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "none was named"),
        (["base"], "only base was named"),
        (["base", "small", "base"], "base is named twice"),
        (["base", "nothing"], "no model at nothing"),
    ],
)
def test_models_that_cannot_be_compared(names, message, shelf, question):
    with pytest.raises((RequestError, CheckpointError), match=message):
        compare(names, question, shelf)


def test_the_same_model_under_two_names_is_named(shelf, question):
    shelf.made["alias"] = ModelEntry(
        "alias", shelf.made["base"].folder, 32, shelf.made["base"].open, shelf.made["base"].load_tokenizer
    )
    with pytest.raises(RequestError, match="base and alias are the same model"):
        compare(["base", "alias"], question, shelf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "no prompts"),
        ({"prompts": ("a", "b", "a")}, "'a' comes twice"),
        ({"n": 0}, "n is 0"),
        ({"text_bytes": 10}, "text_bytes is 10"),
    ],
)
def test_questions_without_meaning(changes, message):
    with pytest.raises(RequestError, match=message):
        ComparisonConfig(**changes)


def test_a_text_that_does_not_fit_is_refused_before_anything_is_measured(shelf, question):
    asked = ComparisonConfig(**{**question.__dict__, "request": GenerationConfig(max_new_tokens=40)})
    steps = []
    with pytest.raises(RequestError, match=r"^base: A prompt of \d tokens and 40 new ones"):
        compare(["base", "small"], asked, shelf, steps.append)
    assert steps == []
    slide = ComparisonConfig(
        **{**question.__dict__, "request": GenerationConfig(max_new_tokens=40, min_new_tokens=40, overflow="slide")}
    )
    assert compare(["base", "small"], slide, shelf).models[0].samples[0].tokens == 40


def test_without_a_run_held_out_text_has_to_be_named(shelf, question, tmp_path):
    shelf.made["stranger"] = ModelEntry(
        "stranger", tmp_path / "stranger", 32, shelf.made["base"].open, shelf.made["base"].load_tokenizer
    )
    asked = ComparisonConfig(**{**question.__dict__, "data": ()})
    with pytest.raises(RequestError, match="There is no held-out text"):
        compare(["foreign", "stranger"], asked, shelf)


def test_a_base_that_is_gone_is_told_and_the_rest_goes_on(shelf, question):
    del shelf.made["base"]
    report = compare(["tuned", "small"], question, shelf)
    assert report.forgetting == ()
    assert any("tuned was tuned from cannot be compared" in note for note in report.notes)


def test_a_model_that_says_it_was_tuned_from_itself_does_not_hang(shelf, question):
    tuned = shelf.made["tuned"]
    settings = {**tuned.settings, "model": "tuned"}
    shelf.made["tuned"] = ModelEntry(
        "tuned", tuned.folder, 32, tuned.open, tuned.load_tokenizer, {**tuned.training, "settings": settings}
    )
    report = compare(["tuned", "small"], question, shelf)
    assert any("names the model itself as its base" in note for note in report.notes)


def test_what_is_told_of_a_model_is_taken_with_care(shelf, tmp_path):
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    tuned = shelf.made["tuned"]
    subject = ModelEntry("run", checkpoint, 32, tuned.open, tuned.load_tokenizer, tuned.training)
    found = Provenance.of(subject)
    assert (found.kind, found.trained_parameters, found.trained_share) == ("tuned here", None, None)
    assert found.detail.startswith("from base on ")
    assert "method norms" in found.detail
    (run / "summary.json").write_text('{"parameters": 200, "trained_parameters": 50}', encoding="utf-8")
    assert Provenance.of(subject).trained_share == 0.25
    (run / "summary.json").write_text("[]", encoding="utf-8")
    assert Provenance.of(subject).trained_share is None
    stranger = ModelEntry("x", tmp_path / "x", 32, tuned.open, tuned.load_tokenizer, {"settings": "?", "progress": 3})
    assert Provenance.of(stranger).kind == "pretrained here"


def test_a_pulled_model_tells_from_where(tmp_path, shelf):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    base = shelf.made["base"]
    subject = ModelEntry("gpt2", folder, 32, base.open, base.load_tokenizer)
    assert Provenance.of(subject).kind == "copied by hand"
    (folder / "origin.json").write_text('{"repository": "acme/gpt2", "revision": "abc"}', encoding="utf-8")
    assert Provenance.of(subject).detail == "acme/gpt2 at abc"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["base", "tuned"], "GPT-2's real weights are absent"),
        (["tuned", "small"], "GPT-2's real weights are absent"),
        (["base", "foreign"], "does not record whose weights"),
    ],
)
def test_the_notes_say_whose_weights_these_are(names, said, shelf, question):
    assert said in " ".join(compare(names, question, shelf).notes)
