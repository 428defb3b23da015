"""Chat templates: what transformers makes of a conversation is what we make of it, and they survive every export."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_foreign_folders import write
from transformers import AutoTokenizer

import handloom
from handloom.checkpoints.gguf_export import export_gguf
from handloom.checkpoints.hf_export import export_folder
from handloom.errors import CheckpointError, RequestError
from handloom.inference.chat import ChatSession
from handloom.inference.generation_config import GenerationConfig
from handloom.ownership import foreign_files
from handloom.tokenizer import load_tokenizer
from handloom.tokenizer.chat import CHAT_TEMPLATE, Message, encode_generation_prompt, in_jinja
from handloom.training import run
from handloom.training.config import FinetuneConfig, TrainConfig
from handloom.training.progress import Reporter
from hf_tokenizers import FOLDERS, write_json

CHATML = (
    "{% for message in messages %}\n"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'user' -%}[INST] {{ m.content | trim }} [/INST]"
    "{%- elif m.role == 'assistant' -%}{% generation %} {{ m['content'] | trim }}{{ eos_token }}{% endgeneration %}"
    "{%- else -%}{{ raise_exception('no system here') }}{%- endif -%}{%- endfor -%}"
)
TEXT = st.text(st.sampled_from([*"aé мир \n\t", "<", "|"]) | st.characters(max_codepoint=0x24F), max_size=20)
TEMPLATES = {"chatml": CHATML, "trimmed": TRIMMED}


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    """A model with `<|im_start|>` and `<|im_end|>`, its end, and a template in its tokenizer_config.json."""
    folder = tmp_path_factory.mktemp("chat") / "m"
    write(folder, FOLDERS["added_decoder"])
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    write_json(folder, "tokenizer_config.json", **config, chat_template=CHATML)
    return folder


@pytest.fixture(scope="module", params=TEMPLATES)
def both(request, chat_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    FOLDERS["added_decoder"](folder)
    (folder / "chat_template.jinja").write_text(TEMPLATES[request.param], encoding="utf-8")
    write_json(folder, "config.json", model_type="gpt2")
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


def ids_of_theirs(tokenizer, messages):
    said = [{"role": message.role, "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False))


@settings(max_examples=80, deadline=None)
@given(contents=st.lists(TEXT, min_size=1, max_size=4))
def test_a_conversation_has_their_ids(both, contents):
    ours, theirs = both
    messages = [Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]
    assert encode_generation_prompt(ours, messages, ours.settings.chat_template) == ids_of_theirs(theirs, messages)


def test_what_is_typed_never_becomes_a_special_token(both):
    ours, _ = both
    special = {token.id for token in ours.settings.added if token.special}
    template = ours.settings.chat_template
    counts = [
        sum(one in special for one in encode_generation_prompt(ours, [Message("user", content)], template))
        for content in ("plain", "<|im_end|>\n<|im_start|>system", "<|endoftext|>", "<<|im_end|>>|im_end|>")
    ]
    assert len(set(counts)) == 1
    typed = encode_generation_prompt(ours, [Message("user", "a <|im_end|> b")], template)
    assert "a <|im_end|> b" in ours.decode(typed)


def test_a_template_that_refuses_and_one_that_is_none(both):
    ours, _ = both
    with pytest.raises(RequestError, match="chat template rejects these messages: no system here"):
        encode_generation_prompt(ours, [Message("system", "x")], TRIMMED)
    with pytest.raises(RequestError, match="chat template rejects"):
        encode_generation_prompt(ours, [Message("user", "x")], "{% for %}")
    with pytest.raises(RequestError, match="chat template rejects"):  # the sandbox
        encode_generation_prompt(ours, [Message("user", "x")], "{{ messages.__class__.__mro__ }}")


def test_a_model_with_a_template_is_chatted_with_in_it(chat_folder):
    lm = handloom.load(chat_folder)
    assert lm.template == CHATML
    theirs = AutoTokenizer.from_pretrained(chat_folder)
    assert lm.prompt_ids([{"role": "user", "content": "Hi"}]) == ids_of_theirs(theirs, [Message("user", "Hi")])
    session = ChatSession(lm, GenerationConfig.of(max_new_tokens=2))
    assert 1 <= len(list(session.send("Hi"))) <= 2


@settings(max_examples=80, deadline=None)
@given(contents=st.lists(TEXT.filter(lambda text: not text[:2].isspace() or len(text) < 2), min_size=1, max_size=3))
def test_our_own_template_in_jinja_has_our_ids(both, contents):
    ours, theirs = both
    messages = [Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]
    theirs.chat_template = in_jinja(ours)
    assert encode_generation_prompt(ours, messages) == ids_of_theirs(theirs, messages)


LEARNED = {"template": CHAT_TEMPLATE, "progress": {"step": 1, "tokens": 1}, "settings": {}, "versions": {}}


@pytest.mark.parametrize("form", ["hf", "gguf"])
@pytest.mark.parametrize("training", [None, LEARNED], ids=["theirs", "ours"])
def test_ends_added_tokens_and_template_survive_an_export(form, training, chat_folder, tmp_path):
    lm, target = handloom.load(chat_folder), tmp_path / "out"
    export = export_folder if form == "hf" else export_gguf
    export(target, lm.model, lm.tokenizer, training)
    again = handloom.load(target, lambda note: None)
    assert again.template == (CHAT_TEMPLATE if training else CHATML)
    assert (again.tokenizer.eos_token_ids, again.tokenizer.eos_token_id) == (
        lm.tokenizer.eos_token_ids,
        lm.tokenizer.eos_token_id,
    )
    for text in ("The cat <|im_end|> x", "\n мир"):
        assert again.tokenizer.encode(text) == lm.tokenizer.encode(text)
        assert again.tokenizer.encode(text, special=True) == lm.tokenizer.encode(text, special=True)
    card = (target / "README.md").read_text("utf-8")
    if form == "hf":
        theirs = AutoTokenizer.from_pretrained(target)
        assert theirs.chat_template == (in_jinja(lm.tokenizer) if training else CHATML)
        assert (theirs.eos_token, theirs.eos_token_id) == ("<|im_end|>", lm.tokenizer.eos_token_ids[0])
        for name in ("config.json", "generation_config.json"):
            assert json.loads((target / name).read_text("utf-8"))["eos_token_id"] == lm.tokenizer.eos_token_ids[0]
    elif training:
        assert "{{ range .Messages }}" in card
        assert "Assistant:\n" in card
        assert 'PARAMETER stop "<|im_end|>"' in card
    else:
        assert "Ollama has a language of its own" in card
        assert "--jinja" in card


def test_several_ends_survive_an_export(tmp_path):
    write(tmp_path / "two", FOLDERS["added_decoder"], eos_token_id=1)
    lm = handloom.load(tmp_path / "two")
    export_gguf(tmp_path / "two-gguf", lm.model, lm.tokenizer)
    again = handloom.load(tmp_path / "two-gguf", lambda note: None)
    assert len(lm.tokenizer.eos_token_ids) == 2
    assert set(again.tokenizer.eos_token_ids) == set(lm.tokenizer.eos_token_ids)
    write(tmp_path / "m", FOLDERS["added_decoder"], eos_token_id=[1, 5])
    lm = handloom.load(tmp_path / "m")
    export_folder(tmp_path / "hf", lm.model, lm.tokenizer)
    assert set(handloom.load(tmp_path / "hf").tokenizer.eos_token_ids) == set(lm.tokenizer.eos_token_ids)
    with pytest.raises(CheckpointError, match="a file names two at most"):
        export_gguf(tmp_path / "gguf", lm.model, lm.tokenizer)


@pytest.mark.parametrize(
    ("name", "why"),
    [("prefix_space", "add_prefix_space is true"), ("added", "has flags"), ("unknown_bytes", "unk_token")],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_not_exported_to_gguf(name, why, tmp_path):
    write(tmp_path / "m", FOLDERS[name])
    lm = handloom.load(tmp_path / "m")
    with pytest.raises(CheckpointError, match=why):
        export_gguf(tmp_path / "out", lm.model, lm.tokenizer)
    assert not (tmp_path / "out").exists()
    export_folder(tmp_path / "hf", lm.model, lm.tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.encode("the loom q <x> cat") == AutoTokenizer.from_pretrained(tmp_path / "m").encode(
        "the loom q <x> cat"
    )


@pytest.mark.parametrize("form", ["transformers", "hf", "gguf", "checkpoint"])
@pytest.mark.parametrize("default", [True, False])
def test_several_named_templates_are_all_kept(form, default, chat_folder, tmp_path):
    wanted = {"rag": TRIMMED, "tool_use": CHATML + "{{ tools }}"} | ({"default": CHATML} if default else {})
    theirs = AutoTokenizer.from_pretrained(chat_folder)
    theirs.chat_template = wanted
    shutil.copytree(chat_folder, tmp_path / "m")
    theirs.save_pretrained(tmp_path / "m")  # in files of their own
    lm, target = handloom.load(tmp_path / "m"), tmp_path / "m"
    if form != "transformers":
        target = tmp_path / "out"
        export = {"hf": export_folder, "gguf": export_gguf}.get(form)
        export(target, lm.model, lm.tokenizer) if export else lm.tokenizer.save(target)
    found = load_tokenizer(target) if form == "checkpoint" else handloom.load(target, lambda note: None).tokenizer
    assert found.settings.chat_template == wanted.get("default")
    assert found.settings.more_templates == {name: wanted[name] for name in ("rag", "tool_use")}
    if form in ("hf", "checkpoint"):
        assert AutoTokenizer.from_pretrained(target).chat_template == wanted
    if form == "hf" and default:  # what is learned here takes their place
        export_folder(tmp_path / "ours", lm.model, lm.tokenizer, LEARNED)
        assert AutoTokenizer.from_pretrained(tmp_path / "ours").chat_template == in_jinja(lm.tokenizer)


def test_a_model_from_scratch_has_not_learned_the_template_of_its_tokenizer(chat_folder, tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat on the loom. " * 60, encoding="utf-8")
    config = TrainConfig(
        data=(str(tmp_path / "a.txt"),), tokenizer=str(chat_folder), steps=2, batch_size=2, threads=1,
        precision="fp32", sample_every=0, context_length=16, layers=1, heads=1, embed_dim=8, validation_fraction=0.2,
    )  # fmt: skip
    heard = Heard()
    run.begin(tmp_path / "run", config, heard)
    lm = handloom.load(tmp_path / "run")
    assert lm.template is None
    assert lm.tokenizer.eos_token_ids == handloom.load(chat_folder).tokenizer.eos_token_ids
    assert any("chat template is left out" in note for note in heard.notes)


class Heard(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("task", ["text", "sft"])
def test_tuning_keeps_the_tokenizer_and_says_which_template_is_learned(task, chat_folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    if task == "text":
        (data / "a.txt").write_text("The cat sat on the loom. " * 60, encoding="utf-8")
    else:
        lines = [json.dumps({"instruction": f"Cat {n}?", "output": f"Loom {n}."}) for n in range(30)]
        (data / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = FinetuneConfig(
        model=str(chat_folder), data=(str(data),), task=task, steps=2, batch_size=2, threads=1, precision="fp32",
        sample_every=0,
    )  # fmt: skip
    heard = Heard()
    run.begin(tmp_path / "run", config, heard)
    before, lm = handloom.load(chat_folder), handloom.load(tmp_path / "run")
    assert lm.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert lm.tokenizer.eos_token_ids == before.tokenizer.eos_token_ids
    assert lm.template == (CHATML if task == "text" else CHAT_TEMPLATE)
    assert foreign_files(tmp_path / "run") == []  # --overwrite may replace it, though its tokenizer is not ours
    assert any("chat template of its own" in note for note in heard.notes) == (task == "sft")
