"""In the evaluation harness our model answers as its own Hugging Face model does, and `handloom evaluate` agrees.

The real harness, its own task definitions, one folder of weights, and no network.
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from handloom.checkpoints.hf_export import export_folder
from handloom.data.corpus import open_corpus
from handloom.evaluation.benchmarks import read_items
from handloom.evaluation.eval_text import PerplexityConvention
from handloom.evaluation.multiple_choice import add_up, score_items, scores
from handloom.evaluation.perplexity import measure, table_rows
from handloom.loading import load
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.train import train_bpe

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
WORDS = "the quick brown fox jumps over a lazy dog while naïve bakers sing of bread and water".split()  # noqa: SIM905
CONTEXT = 64


def sentence(chance, least=2, most=7):
    return " ".join(chance.choice(WORDS, int(chance.integers(least, most + 1))))


def records():
    """Questions in the published forms, made of a few words, some longer than the context."""
    chance = np.random.default_rng(5)
    long = " ".join(WORDS * 6)
    hellaswag = [
        {
            "activity_label": sentence(chance, 1, 2),
            "ctx_a": f"{sentence(chance)} [header] {long if n == 3 else sentence(chance)}.",
            "ctx_b": f"the {sentence(chance, 1, 2).upper()}",
            "ctx": "not used",
            "endings": [f"{sentence(chance)}. [title] {sentence(chance)}" for _ in range(4)],
            "label": str(chance.integers(4)),
        }
        for n in range(12)
    ]
    arc = [
        {
            "question": sentence(chance) + "?",
            "choices": {"text": [sentence(chance, 1, 3) for _ in names], "label": list(names)},
            "answerKey": str(chance.choice(list(names))),
        }
        for names in ["ABCD", "1234", "ABC"] * 4
    ]
    piqa = [
        {"goal": sentence(chance), "sol1": sentence(chance), "sol2": sentence(chance), "label": int(chance.integers(2))}
        for _ in range(10)
    ]
    lambada = [{"text": sentence(chance, 4, 9)} for _ in range(9)]
    # No white space at the ends: there the harness counts an empty word.
    texts = [{"text": f"{sentence(chance, 3, 90)}.\n{sentence(chance, 20, 90)}"} for _ in range(6)]
    return {"hellaswag": hellaswag, "arc": arc, "piqa": piqa, "lambada": lambada, "texts": texts}


TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "arc": ("arc/arc_easy.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "lambada": ("lambada/lambada_openai.yaml", "test"),
}
OWN = {
    "texts": """
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "written": """
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: "the"
generation_kwargs: {until: ["zz", " the"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
    "lengths": """
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list:
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
""",
}
FILES = {"written": "texts", "lengths": "arc"}
"""Tasks that read the file of another."""


def write_tasks(folder):
    """The harness's own definitions with local data in place of the hub's, and three of ours."""
    import lm_eval

    theirs = Path(lm_eval.__file__).parent / "tasks"
    for name, lines in records().items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name in (*TASKS, *OWN):
        definition, split = TASKS.get(name, ("", "test"))
        data = (folder / f"{FILES.get(name, name)}.jsonl").as_posix()
        head = f"include: {(theirs / definition).as_posix()}\ntag: local\n" if definition else OWN[name]
        (folder / f"local_{name}.yaml").write_text(
            f"{head}\ntask: local_{name}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {{data_files: {{{split}: {data}}}}}\ntraining_split: null\n"
            + ("validation_split: null\n" if split == "test" else ""),
            encoding="utf-8",
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 folder with a small vocabulary of its own, the data and the tasks."""
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = train_bpe([" ".join(WORDS) + " Question: Answer:"] * 3, 330)
    model = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, layers=2, heads=2, embed_dim=32), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    export_folder(folder / "model", model, tokenizer)
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The harness's libraries keep their caches here and ask nobody."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("DISABLE_MULTIPROC", "1")  # the bootstrap of standard errors would start processes
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
        yield


def evaluated(lm, folder, tasks):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(lm, tasks=tasks, task_manager=manager, bootstrap_iters=20, batch_size=4)


ALL = [f"local_{name}" for name in (*TASKS, *OWN)]


@pytest.fixture(scope="module")
def their_model(folder, offline):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return HFLM(model, tokenizer=tokenizer, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder, their_model):
    return evaluated(their_model, folder, ALL)


@pytest.fixture(scope="module")
def lm(folder):
    return load(folder / "model")


@pytest.fixture(scope="module")
def our_model(lm, offline):
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    return HandloomLM(lm, batch_size=4)


@pytest.fixture(scope="module")
def ours(our_model, folder):
    return evaluated(our_model, folder, ALL)


def numbers(results, task):
    return {key: value for key, value in results["results"][task].items() if isinstance(value, (int, float))}


@pytest.mark.parametrize("task", ALL)
def test_every_metric_of_every_kind_of_request_is_the_same(theirs, ours, task):
    expected, found = numbers(theirs, task), numbers(ours, task)
    assert found.keys() == expected.keys()
    assert any("stderr" not in key for key in expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-4), key


@pytest.mark.parametrize("task", ALL)
def test_every_answer_to_every_request_is_the_same(theirs, ours, task):
    def flat(results):
        """Log probabilities, whether they are greedy, texts: one after another, by document."""
        for sample in sorted(results["samples"][task], key=lambda sample: sample["doc_id"]):
            assert sample["resps"]
            for (response,) in sample["resps"]:
                yield from response if isinstance(response, (list, tuple)) else [response]

    expected, found = list(flat(theirs)), list(flat(ours))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, (float, np.floating)):
            assert one == pytest.approx(float(other), rel=1e-4, abs=1e-4)
        else:
            assert one == other


def test_the_questions_have_something_to_tell(ours):
    """Or all of this would say little: some right, some wrong, texts that end early and late."""
    for name in ("hellaswag", "arc", "piqa"):
        assert 0 < numbers(ours, f"local_{name}")["acc,none"] < 1
    written = [sample["resps"][0][0] for sample in ours["samples"]["local_written"]]
    assert len(set(written)) > 1


@pytest.mark.parametrize("task", TASKS)
def test_our_own_reading_of_the_same_file_agrees(lm, folder, ours, task):
    found = {score.key: score for score in scores(add_up(score_items(lm, read_items(folder / f"{task}.jsonl", task))))}
    expected = numbers(ours, f"local_{task}")
    assert found["accuracy"].value == pytest.approx(expected["acc,none"])
    assert found["accuracy"].error == pytest.approx(expected["acc_stderr,none"])
    if task == "lambada":
        assert found["perplexity"].value == pytest.approx(expected["perplexity,none"], rel=1e-4)
        return
    assert found["accuracy_per_character"].value == pytest.approx(expected["acc_norm,none"])
    assert found["accuracy_per_character"].error == pytest.approx(expected["acc_norm_stderr,none"])
    if task == "arc":
        by_bytes = numbers(ours, "local_lengths")["acc_bytes,none"]
        assert found["accuracy_per_byte"].value == pytest.approx(by_bytes)


def test_each_choice_of_ours_has_the_likelihood_that_the_harness_gives_it(lm, folder, theirs):
    samples = sorted(theirs["samples"]["local_hellaswag"], key=lambda sample: sample["doc_id"])
    found = list(score_items(lm, read_items(folder / "hellaswag.jsonl", "hellaswag")))
    assert any(one.truncated for one in found)
    for sample, one in zip(samples, found, strict=True):
        expected = [float(response[0][0]) for response in sample["resps"]]
        np.testing.assert_allclose([-nats for nats in one.nats], expected, rtol=1e-4)


def test_the_perplexities_of_documents_alone_are_those_of_the_harness(lm, folder, theirs):
    measured = measure(lm, open_corpus(folder / "texts.jsonl"), PerplexityConvention(stride=(CONTEXT,)))
    found = {row.key: row.values[0] for row in table_rows(measured) if row.key}
    expected = numbers(theirs, "local_texts")
    assert max(len(lm.tokenizer.encode(r["text"])) for r in records()["texts"]) > 2 * CONTEXT
    assert math.log(found["word_perplexity"]) == pytest.approx(math.log(expected["word_perplexity,none"]), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(expected["bits_per_byte,none"], rel=1e-5)
    assert 2 ** found["bits_per_byte"] == pytest.approx(expected["byte_perplexity,none"], rel=1e-4)


def asked(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def test_requests_at_the_edges_are_answered_alike(their_model, our_model):
    long = " ".join(WORDS * 9)
    pairs = [
        ("", " the"), ("", "fox jumps"), ("the ", "fox"), ("the quick\n", "\nbrown"), ("lazy", " dog"),
        (long, " dog"), ("the", f" {' '.join(WORDS[:9])}"), ("lazy", " cat"),
    ]  # fmt: skip
    expected = their_model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    found = our_model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for one, other in zip(found, expected, strict=True):
        assert one == (pytest.approx(other[0], rel=1e-4), other[1])
    ((log_p, _),) = our_model.loglikelihood(asked("loglikelihood", ("na", "ïve")), disable_tqdm=True)
    assert log_p < 0  # one token across the two: there the harness's own model gives up
    texts = [("",), ("a",), (long,), (" the\n",)]
    expected = their_model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True)
    found = our_model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[0] == 0


def test_settings_of_writing_mean_the_same(their_model, our_model):
    """Other lengths, stop strings and penalties, each in a group of its own, in one call."""
    requests = asked(
        "generate_until",
        ("the quick brown", {"until": [" dog", "o"], "max_gen_toks": 20}),
        ("a lazy", {"until": "zz", "max_new_tokens": 7, "do_sample": False}),
        (" ".join(WORDS * 9), {"max_gen_toks": 30, "repetition_penalty": 1.4, "do_sample": False}),
        ("bread and", {"until": [" dog", "o"], "max_gen_toks": 20}),
        ("naïve bakers", {"max_gen_toks": 9, "temperature": 0.0}),
    )
    expected = their_model.generate_until(requests, disable_tqdm=True)
    assert our_model.generate_until(requests, disable_tqdm=True) == expected
    assert len(set(expected)) == 5


def test_drawn_texts_do_not_depend_on_the_batch(lm, our_model):
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    how = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "max_gen_toks": 8, "until": []}
    requests = asked("generate_until", *((text, how) for text in WORDS[:7]))
    together = our_model.generate_until(requests)
    assert HandloomLM(lm, batch_size=1).generate_until(requests) == together
    assert HandloomLM(lm, batch_size=4, seed=1).generate_until(requests) != together


def test_what_cannot_be_done_is_refused_rather_than_done_otherwise(lm, our_model):
    from handloom.errors import RequestError
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    with pytest.raises(RequestError, match="'num_beams'"):
        our_model.generate_until(asked("generate_until", ("a", {"num_beams": 3})))
    with pytest.raises(RequestError, match="no room for a prompt in a context of 64"):
        our_model.generate_until(asked("generate_until", ("a", {"until": ["z"]})))
    with pytest.raises(RequestError, match="not take the argument 'dtype'"):
        HandloomLM(lm, dtype="float16")
    with pytest.raises(RequestError, match="from 1 to 64"):
        our_model.loglikelihood(asked("loglikelihood", ("a", " dog" * 70)), disable_tqdm=True)


def test_answers_are_kept_in_the_cache_of_the_harness(lm, our_model, tmp_path):
    from lm_eval.api.model import CachingLM

    from handloom.evaluation.lm_eval_adapter import HandloomLM

    pytest.importorskip("sqlitedict")
    model = HandloomLM(lm)
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    requests = asked("loglikelihood", ("the", " fox"), ("the", " dog"))
    expected = our_model.loglikelihood(requests, disable_tqdm=True)
    assert cached.loglikelihood(requests) == expected
    model._loglikelihood_tokens = None  # it must not be asked again
    assert [tuple(one) for one in cached.loglikelihood(requests)] == expected
    cached.dbdict.close()


def test_the_precision_is_ours_and_all_else_the_harnesss(monkeypatch, tmp_path):
    from handloom.cli import main

    # As the command imports it: `from handloom.evaluation import ...` may give one that another test had imported anew.
    lm_eval_adapter = importlib.import_module("handloom.evaluation.lm_eval_adapter")
    asked = []
    monkeypatch.setattr(lm_eval_adapter, "command_line", lambda flags, model, load: asked.append((flags, load)))
    monkeypatch.setattr("handloom.loading.find_model", lambda *_: None)
    monkeypatch.setattr("handloom.loading.load", lambda name, precision: (name, precision))
    for words in (["--precision", "int8"], []):
        with pytest.raises(SystemExit) as left:
            main.main(["lm-eval", "runs/demo", "--tasks", "x", *words, "--limit", "3"])
        assert left.value.code == 0
    assert [flags for flags, _ in asked] == [("--tasks", "x", "--limit", "3")] * 2
    assert [load("runs/demo") for _, load in asked] == [("runs/demo", "int8"), ("runs/demo", "fp32")]
