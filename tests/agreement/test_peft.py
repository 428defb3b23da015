"""Adapters both ways: trained with PEFT beside transformers' GPT-2 and read here, trained here and read there."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from published import edit_json, saved, sharpened, tokens

from handloom.checkpoints import hf_folder, peft
from handloom.errors import CheckpointError
from handloom.finetuning import lora, trainable_tokens
from handloom.finetuning.lora import LoRAConfig
from handloom.model.surgery import add_classification_head

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("peft")

from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning")

CONFIG = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_inner": 40, "vocab_size": 90, "n_positions": 24,
          "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A GPT-2 of transformers in a folder."""
    return saved(sharpened(GPT2Config(**CONFIG)), tmp_path_factory.mktemp("base") / "gpt2")


def scores(model, ids):
    with torch.no_grad():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def trained_there(base, **settings):
    """An adapter that PEFT lays beside the model and trains for three steps."""
    model = theirs.get_peft_model(
        GPT2LMHeadModel.from_pretrained(base),
        theirs.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, lora_dropout=0.0, **settings),
    )
    ids = tokens(model.config, 3, 12)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]},
        {"r": 2, "lora_alpha": 5, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
        {"r": 3, "lora_alpha": 6, "target_modules": ["attn.c_proj", "mlp.c_fc"], "use_dora": True},
        {"r": 4, "target_modules": r".*\.h\.1\.mlp\.c_proj"},
        {
            "r": 4,
            "target_modules": ["c_attn", "c_fc"],
            "rank_pattern": {"c_attn": 2},
            "alpha_pattern": {"h.1.mlp.c_fc": 3},
        },
        {"r": 4, "target_modules": ["c_fc"], "layers_to_transform": [1]},
        {"r": 2, "target_modules": "all-linear"},
        {"r": 2, "target_modules": ["c_attn"], "trainable_token_indices": [3, 7, 80]},
        {"r": 2, "target_modules": ["c_fc"], "trainable_token_indices": {"wte": [9, 1, 5]}},
        {"r": 2, "target_modules": ["c_fc"], "trainable_token_indices": {"transformer.wte": [4]}},
    ],
    ids=str,
)
def test_an_adapter_trained_there_gives_the_same_scores_here(base, tmp_path, settings):
    model = trained_there(base, **settings)
    model.save_pretrained(tmp_path / "adapter")
    ours = hf_folder.open_folder(base).load_model()
    ids = tokens(model.config, 2, 20, seed=2)
    plain = scores(ours, ids)
    peft.open_adapter(tmp_path / "adapter").attach(ours)
    assert (scores(ours, ids) - scores(model, ids)).abs().max() < 1e-4
    assert (scores(ours, ids) - plain).abs().max() > 0.01  # the adapter says something
    lora.merge_and_unload(ours)
    assert (scores(ours, ids) - scores(model, ids)).abs().max() < 1e-4


@pytest.mark.parametrize("tokens_", [None, [2, 3, 60]], ids=["", "with rows for tokens"])
@pytest.mark.parametrize(
    "how",
    [
        LoRAConfig(r=4, lora_alpha=8.0),
        LoRAConfig(r=2, lora_alpha=3.0, use_rslora=True, target_modules=("blocks.*.attention.*",)),
        LoRAConfig(r=3, use_dora=True),
        LoRAConfig(r=2, target_modules=("blocks.1.feedforward.up", "blocks.0.attention.out")),
    ],
    ids=str,
)
def test_an_adapter_trained_here_gives_the_same_scores_there(base, tmp_path, how, tokens_):
    ours = hf_folder.open_folder(base).load_model()
    names = lora.add_adapter(ours, how, seed=3, tokens=None if tokens_ is None else torch.tensor(tokens_))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for detour in lora.adapter_layers(ours, "adapter").values():
            for parameter in detour.parameters():
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
        for rows in trainable_tokens.token_deltas(ours).values():
            rows.rows.add_(torch.randn(rows.rows.shape, generator=generator))
    peft.write_adapter(tmp_path, ours, how, str(base))
    model = theirs.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), tmp_path).eval()
    adapted = [n for n, m in model.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)]
    assert len(adapted) == len(names)  # it found exactly the layers that we mean
    ids = tokens(model.config, 2, 20, seed=2)
    assert (scores(ours, ids) - scores(model, ids)).abs().max() < 1e-4
    merged = model.merge_and_unload()
    assert (scores(ours, ids) - scores(merged, ids)).abs().max() < 1e-4
    again = hf_folder.open_folder(base).load_model()
    peft.open_adapter(tmp_path).attach(again)
    assert scores(again, ids).equal(scores(ours, ids))
    assert all(t.equal(peft.tensors_of(again)[n]) for n, t in peft.tensors_of(ours).items())


def test_a_head_for_labels_travels_with_its_adapter(base, tmp_path):
    ours = hf_folder.open_folder(base).load_model()
    add_classification_head(ours, ("ham", "spam", "eggs"), seed=1)
    lora.add_adapter(ours, LoRAConfig(r=2), seed=3)
    peft.write_adapter(tmp_path, ours, LoRAConfig(r=2), str(base))
    config = GPT2Config.from_pretrained(base, num_labels=3, pad_token_id=0)
    model = theirs.PeftModel.from_pretrained(
        GPT2ForSequenceClassification.from_pretrained(base, config=config), tmp_path
    ).eval()
    ids = tokens(config, 2, 20, seed=2).clamp(min=1)  # 0 is its padding
    with torch.no_grad():
        here = ours.classify_logits(ours.hidden(ids)[:, -1])
    assert (here - scores(model, ids)).abs().max() < 1e-4
    again = hf_folder.open_folder(base).load_model()
    peft.open_adapter(tmp_path).attach(again)
    assert again.config.label_names == ("0", "1", "2")
    with torch.no_grad():
        assert again.classify_logits(again.hidden(ids)[:, -1]).equal(here)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"lora_bias": True}, "lora_bias is True; Handloom does not compute that"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"something_new": 3}, "something_new is 3"),
        ({"trainable_token_indices": {"lm_head": [1]}}, "trainable_token_indices is {'lm_head'"),
        ({"trainable_token_indices": [1, 1]}, "each once"),
        ({"trainable_token_indices": [89, 90]}, "names the token 90, but the model has 90"),
        ({"trainable_token_indices": [1]}, "trainable_tokens_delta is missing"),
        ({"r": 5}, "gives transformer.h.0.attn.c_attn the rank 5, and its tensor has rank 2"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'; it must be a number"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(base, tmp_path, changes, words):
    ours = hf_folder.open_folder(base).load_model()
    lora.add_adapter(ours, LoRAConfig(r=2), seed=3)
    peft.write_adapter(tmp_path, ours, LoRAConfig(r=2), str(base))
    path = tmp_path / peft.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words.replace("[", r"\[")):
        peft.open_adapter(tmp_path).attach(hf_folder.open_folder(base).load_model())


def test_tensors_that_do_not_fit_are_named(base, tmp_path):
    from safetensors.torch import load_file, save_file

    ours = hf_folder.open_folder(base).load_model()
    lora.add_adapter(ours, LoRAConfig(r=2), seed=3)
    peft.write_adapter(tmp_path, ours, LoRAConfig(r=2), str(base))
    whole = load_file(tmp_path / peft.WEIGHTS)
    name = next(n for n in whole if n.endswith("h.0.attn.c_attn.lora_A.weight"))

    def refusal(tensors):
        save_file(tensors, tmp_path / peft.WEIGHTS)
        with pytest.raises(CheckpointError) as caught:
            peft.open_adapter(tmp_path).attach(hf_folder.open_folder(base).load_model())
        return str(caught.value)

    assert "the tensor lora_A of blocks.0.attention.qkv is missing" in refusal(
        {n: t for n, t in whole.items() if n != name}
    )
    assert "shape (2, 8) instead of (2, 16)" in refusal({**whole, name: whole[name][:, :8].contiguous()})
    assert "not finite" in refusal({**whole, name: whole[name] * float("nan")})
    assert "does not fit this model" in refusal({**whole, name.replace("h.0", "h.7"): whole[name].clone()})
    assert "does not fit" in refusal({**whole, name.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(48)})
    assert "holds no adapter" in refusal({})


TARGETS = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
OTHER_KINDS = {
    "IA3": lambda: theirs.IA3Config(feedforward_modules=["c_fc"], **TARGETS),
    "ADALORA": lambda: theirs.AdaLoraConfig(total_step=10, r=2, **TARGETS),
    "VERA": lambda: theirs.VeraConfig(r=2, **TARGETS),
    "FOURIERFT": lambda: theirs.FourierFTConfig(n_frequency=5, **TARGETS),
    "LN_TUNING": lambda: theirs.LNTuningConfig(target_modules=["ln_1"]),
    "PROMPT_TUNING": lambda: theirs.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "PREFIX_TUNING": lambda: theirs.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "P_TUNING": lambda: theirs.PromptEncoderConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "OFT": lambda: theirs.OFTConfig(oft_block_size=4, target_modules=["c_attn"]),
    "BOFT": lambda: theirs.BOFTConfig(target_modules=["c_attn"]),
    "LOHA": lambda: theirs.LoHaConfig(target_modules=["c_attn"]),
    "LOKR": lambda: theirs.LoKrConfig(target_modules=["c_attn"]),
}  # fmt: skip
MERGED = ("IA3", "ADALORA", "VERA", "LN_TUNING")


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_an_adapter_of_another_kind_is_refused_by_its_kind(tmp_path, kind):
    OTHER_KINDS[kind]().save_pretrained(tmp_path)
    remedy = "it with PEFT" if kind.startswith("P") else "merge_and_unload"
    with pytest.raises(CheckpointError, match=f"peft_type is '{kind}'; Handloom reads LORA.*{remedy}"):
        peft.open_adapter(tmp_path)


@pytest.mark.parametrize("kind", MERGED)
def test_the_way_on_from_another_kind_leads_to_the_same_scores(base, tmp_path, kind):
    torch.manual_seed(0)
    model = theirs.get_peft_model(GPT2LMHeadModel.from_pretrained(base), OTHER_KINDS[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    model.eval()
    ids = tokens(model.config, 2, 10)
    before = scores(GPT2LMHeadModel.from_pretrained(base).eval(), ids)
    wanted = scores(model, ids)
    assert (wanted - before).abs().max() > 1e-3
    model.merge_and_unload().save_pretrained(tmp_path)
    assert (scores(hf_folder.open_folder(tmp_path).load_model(), ids) - wanted).abs().max() < 1e-4


def test_all_settings_that_stand_in_the_way_are_named_at_once(base, tmp_path):
    trained_there(base, r=2, target_modules=["c_attn"]).save_pretrained(tmp_path)
    edit_json(tmp_path / peft.CONFIG, lora_bias=True, bias="all", r="two")
    with pytest.raises(CheckpointError) as refused:
        peft.open_adapter(tmp_path)
    assert all(f"{key} is " in refused.value.problem for key in ("lora_bias", "bias", "r"))


def test_an_adapter_of_another_library_is_refused_by_its_kind_too(tmp_path):
    (tmp_path / peft.CONFIG).write_text(
        '{"config": {"adapter_residual_before_ln": false}, "model_type": "gpt2"}', encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"peft_type is None; Handloom reads LORA.*library that wrote it"):
        peft.open_adapter(tmp_path)
