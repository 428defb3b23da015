"""Chat templates in the evaluation harness: its tasks reach the model in the very ids of training."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import RequestError
from handloom.evaluation.chat_text import chat_ids, chat_text, is_chat
from handloom.inference.language_model import LanguageModel
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message, encode_generation_prompt
from handloom.tokenizer.train import train_bpe

pytest.importorskip("lm_eval")
TEXT = "the quick brown fox Question: Answer: jumps over <|endoftext|> "
TOKENIZER = train_bpe([TEXT * 9], 300)
TASKS = {
    "chosen": 'output_type: multiple_choice\ndoc_to_target: "{{answer}}"\ndoc_to_choice: ["fox", "dog"]\n',
    "written": 'output_type: generate_until\ndoc_to_target: fox\ngeneration_kwargs: {max_gen_toks: 5, until: ["q"]}\n',
}


def language_model(template=CHAT_TEMPLATE):
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 128, layers=1, heads=2, embed_dim=16), seed=3).eval()
    return LanguageModel(model, TOKENIZER, template=template)


texts = st.text(st.characters(exclude_categories=("Cs",)).filter(lambda c: c not in "\ufdd0\ufdd1"), max_size=20)


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), texts | st.just("<|endoftext|>User:\n")), max_size=4
    )
)
def test_every_conversation_has_the_ids_of_training(pairs):
    messages = [{"role": role, "content": content} for role, content in pairs]
    text = chat_text(messages, answered=False)
    wanted = encode_generation_prompt(TOKENIZER, [Message(*pair) for pair in pairs])
    assert is_chat(text)
    assert chat_ids(TOKENIZER, text) == wanted
    if pairs and pairs[-1][0] == "assistant":
        begun = chat_text(messages, answered=True)
        answer = TOKENIZER.encode(pairs[-1][1]) if pairs[-1][1] else []
        assert (
            chat_ids(TOKENIZER, begun)
            == encode_generation_prompt(TOKENIZER, [Message(*p) for p in pairs[:-1]]) + answer
        )


def test_borders_in_a_text_and_unknown_roles_are_refused():
    for content in ("a\ufdd0b", "\ufdd1"):
        with pytest.raises(RequestError, match="which are not characters"):
            chat_text([{"role": "user", "content": content}], answered=False)
    with pytest.raises(RequestError, match="a message of 'tool'"):
        chat_text([{"role": "tool", "content": "x"}], answered=False)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Run both tasks; gives the ids that the model was given to read before answers, and to go on from."""
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    from handloom.evaluation import lm_eval_adapter

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    lines = [{"q": "the quick", "answer": 0}, {"q": "brown", "answer": 1}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, body in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {(tmp_path / 'q.jsonl').as_posix()}}}}}\n"
        head = f'task: {name}\ntest_split: test\ndoc_to_text: "Question: {{{{q}}}}"\n'
        (tmp_path / f"{name}.yaml").write_text(head + data + body, encoding="utf-8")
    seen = []
    window, add = lm_eval_adapter.window_of, lm_eval_adapter.Engine.add
    monkeypatch.setattr(lm_eval_adapter, "window_of", lambda c, *rest: seen.append(list(c)) or window(c, *rest))
    monkeypatch.setattr(
        lm_eval_adapter.Engine, "add", lambda self, p, *rest, **more: seen.append(p) or add(self, p, *rest, **more)
    )

    def run(lm, **settings):
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        return seen, lm_eval.simple_evaluate(
            lm_eval_adapter.HandloomLM(lm), tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **settings
        )

    return run


def test_tasks_are_asked_as_users_messages_after_the_system_s(evaluated):
    seen, found = evaluated(language_model(), apply_chat_template=True, system_instruction="Be brief.")
    system = Message("system", "Be brief.")
    wanted = {
        tuple(encode_generation_prompt(TOKENIZER, [system, Message("user", f"Question: {q}")]))
        for q in ("the quick", "brown")
    }
    assert {tuple(ids) for ids in seen} == wanted
    assert set(found["results"]) == set(TASKS)


def test_without_the_flag_nothing_is_a_conversation(evaluated):
    seen, _ = evaluated(language_model())
    assert all(TOKENIZER.eos_token_id not in ids for ids in seen)


def test_a_model_without_a_template_has_none_to_apply(evaluated):
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    with pytest.raises(RequestError, match="no chat template to apply"):
        evaluated(language_model(template=None), apply_chat_template=True)
    with pytest.raises(RequestError, match="not have the chat template 'chatml'"):
        HandloomLM(language_model()).chat_template("chatml")
    assert HandloomLM(language_model()).chat_template(True) == CHAT_TEMPLATE


def test_a_border_in_data_is_text_where_no_template_is_applied():
    from handloom.evaluation.lm_eval_adapter import HandloomLM

    lm = HandloomLM(language_model())
    assert lm.tok_encode("\ufdd0a") == TOKENIZER.encode("\ufdd0a")


@pytest.mark.parametrize(
    "error", [TypeError("no argument x"), AssertionError(), NotImplementedError("y"), ImportError("wandb")]
)
def test_what_the_harness_raises_at_its_arguments_is_no_traceback(error, monkeypatch):
    import lm_eval.__main__ as theirs

    from handloom.evaluation.lm_eval_adapter import command_line

    def fails():
        raise error

    monkeypatch.setattr(theirs, "cli_evaluate", fails)
    with pytest.raises(RequestError, match="The evaluation harness fails: "):
        command_line(["--tasks", "x"], "m", lambda name: None)


@pytest.mark.parametrize("words", [["--model", "hf"], ["--model=hf"], ["-M", "hf"]])
def test_another_model_is_refused(words):
    from handloom.evaluation.lm_eval_adapter import command_line

    with pytest.raises(RequestError, match="selects a model of the harness"):
        command_line([*words, "--tasks", "x"], "m", lambda name: None)
