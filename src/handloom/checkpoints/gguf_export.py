"""Exports a model as a GGUF file, which llama.cpp, and what is built on it, loads and continues as we do.

The library gguf, of llama.cpp's own authors, has the names of the tensors; llama.cpp's GPT-2 has fixed arithmetic, so a
model that is computed otherwise is refused by name.

Two differences cannot be stored in a file. llama.cpp's GELU comes from a table in half precision, which moves logits
in the third digit after the point. And letters that came after Unicode 15 are signs there, so that a text with such
letters may be split into other tokens.

Sources: llama.cpp's `src/models/gpt2.cpp` and `src/llama-vocab.cpp`, which read the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from handloom import ownership, replacement
from handloom.checkpoints.families.gpt2 import GPT2
from handloom.checkpoints.formats import GGUF
from handloom.checkpoints.hf_export import chat_template
from handloom.checkpoints.model_card import Use, how_it_was_trained, write_model_card
from handloom.errors import CheckpointError
from handloom.locks import TemporaryFolder
from handloom.model.config import GPTConfig
from handloom.model.gpt import GPT
from handloom.packages import import_failure
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import in_jinja
from handloom.tokenizer.vocab_files import MERGES, VOCABULARY

if TYPE_CHECKING:
    from gguf import GGUFWriter

TRAINING = "handloom.training"
"""The file's key for the trainer state, as JSON: progress, settings and versions."""

Precision = Literal["f32", "f16"]


def export_gguf(
    target: Path,
    model: GPT,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None = None,
    *,
    precision: Precision = "f32",
    overwrite: bool = False,
    reads: Sequence[Path] = (),
) -> Path:
    """Write the folder `target` with one GGUF file and a model card, completely or not at all; returns the file.

    Args:
        target: the file in it gets its name.
        model: ids beyond the tokenizer's, of which no text can come, are left out.
        training: the trainer state of the model's checkpoint; None: unknown.
        precision: f32 writes the weights bit for bit. f16 rounds the matrices, as llama.cpp's own converter does;
            what is in no matrix product (LayerNorms, biases, the position embedding) stays in f32.
        overwrite: whether an existing folder of ours may be replaced.
        reads: the folders that the model was read from; they are not replaced.

    Raises ConfigError: the library gguf is missing, or the folder may not be made there, or not be replaced; see
    `ownership.require_replaceable`; CheckpointError: llama.cpp would compute something else, weights are too large for
    f16, another process makes the same folder, or the disk refuses.
    """
    require_library()
    from gguf import GGUFWriter

    ownership.require_replaceable(target, reads, overwrite)
    name = target.resolve().name.removesuffix(GGUF)
    _require_same_results(model.config, tokenizer, name)
    template = chat_template(tokenizer, training)
    tensors = _tensors(model, tokenizer)
    in_products = {their for their, t in tensors.items() if t.dim() == 2 and not their.startswith("position_embd")}
    halves = in_products if precision == "f16" else set()
    size = sum(tensor.numel() * (2 if theirs in halves else 4) for theirs, tensor in tensors.items())
    with replacement.new_folder(target, size + (16 << 20), reads, overwrite) as folder:
        writer = GGUFWriter(folder / (name + GGUF), "gpt2")
        try:
            writer.add_type("model")
            writer.add_name(name)
            _describe(writer, model.config, training, precision)
            _add_tokenizer(writer, tokenizer, template)
            _write_tensors(writer, tensors, halves)
        finally:
            writer.close()
        use = _use(name, precision, tokenizer, template)
        write_model_card(folder, model, tokenizer, use=use, training=training, name=name)
    return target / (name + GGUF)


def require_library() -> None:
    """Raise ConfigError unless the library gguf is installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise import_failure(error, "Reading or writing a GGUF file") or error from None


def llama_names(config: GPTConfig) -> dict[str, str]:
    """GPT-2's name of each tensor -> llama.cpp's, which lacks one for a classifier."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    known = get_tensor_name_map(MODEL_ARCH.GPT2, config.layers)
    found = {name.theirs: known.get_name(name.theirs, (".weight", ".bias")) for name in GPT2.tensors.of(config)}
    return {theirs: name for theirs, name in found.items() if name}


def _require_same_results(config: GPTConfig, tokenizer: Tokenizer, name: str) -> None:
    """Raise CheckpointError unless llama.cpp computes this model, and gives the same ids and ends."""
    hf = "Export it as a Hugging Face folder instead: `to=hf`."
    arithmetic = (
        (bool(config.label_names), "labels are set, and there is no head for them there", "Use it with Handloom."),
        (config.activation != "gelu_tanh", f"activation is {config.activation}, and there it is always gelu_tanh", hf),
        (not config.scale_attention_weights, "scale_attention_weights is false, and there it is always true", hf),
        (config.scale_attention_by_inverse_layer,
         "scale_attention_by_inverse_layer is true, and there it is always false", hf),
    )  # fmt: skip
    for differs, why, remedy in arithmetic:
        if differs:
            raise CheckpointError(f"llama.cpp would compute something else: this model's {why}.", remedy)
    if tokenizer.vocab_size < 258:
        raise CheckpointError(
            "llama.cpp reads no tokenizer without merges, and this model's tokens are single bytes.",
            f"Train with `vocab_size=258` or more. {hf}",
        )
    if any(family in name.lower() for family in ("phi3", "phi-3")):
        raise CheckpointError(
            f"llama.cpp takes a model with the name {name!r} for one of the family Phi-3, and does not load it.",
            "Choose another name for the folder.",
        )
    settings, ends = tokenizer.settings, tokenizer.eos_token_ids
    flags = [t.content for t in settings.added if not t.special and (t.lstrip or t.rstrip or t.single_word)]
    reading = (
        (settings.add_prefix_space, "add_prefix_space is true, and there it is always false"),
        (settings.unk is not None or settings.ignore_merges,
         "unk_token or ignore_merges is set, and there they are not"),
        (bool(flags), f"added token {[*flags, ''][0]!r} has flags (lstrip, rstrip, single_word), there it has none"),
        (len(ends) > 2, f"ends are {', '.join(map(str, ends))}, and a file names two at most"),
    )  # fmt: skip
    for differs, why in reading:
        if differs:
            raise CheckpointError(f"llama.cpp would read or end texts in another way: this tokenizer's {why}.", hf)


def _tensors(model: GPT, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Our tensors, (out, in) as they are, under llama.cpp's names."""
    ours, called = model.state_dict(), llama_names(model.config)
    by_token = (GPT2.tensors.embedding, GPT2.tensors.head.theirs)
    return {
        called[name.theirs]: ours[name.ours][: tokenizer.vocab_size] if name.theirs in by_token else ours[name.ours]
        for name in GPT2.tensors.of(model.config)
    }


def _describe(writer: GGUFWriter, config: GPTConfig, training: dict[str, Any] | None, precision: Precision) -> None:
    from gguf import LlamaFileType

    writer.add_description("A GPT-2 style model, exported by Handloom. " + how_it_was_trained(training))
    if training is not None:
        kept = {key: training[key] for key in ("progress", "settings", "versions")}
        writer.add_string(TRAINING, json.dumps(kept, ensure_ascii=False))
    writer.add_file_type(LlamaFileType.ALL_F32 if precision == "f32" else LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embed_dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feedforward_dim)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(config.norm_eps)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, template: str | None) -> None:
    """Tokens and merges, spelled as in `vocab.json` and `merges.txt`, with special tokens and chat templates."""
    from gguf import TokenType

    with TemporaryFolder("tokenizer") as folder:
        tokenizer.save(Path(folder))
        vocabulary = json.loads((Path(folder) / VOCABULARY).read_text(encoding="utf-8"))
        merges = (Path(folder) / MERGES).read_text(encoding="utf-8").splitlines()[1:]
    words = {number: word for word, number in vocabulary.items()}
    kinds = dict.fromkeys(words, TokenType.NORMAL)
    for token in tokenizer.settings.added:
        words[token.id] = token.content
        kinds[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    kinds[tokenizer.eos_token_id] = TokenType.CONTROL
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # GPT-2's pattern of pre-tokenization
    writer.add_token_list([words.get(number, f"[UNUSED {number}]") for number in ids])
    writer.add_token_types([kinds.get(number, TokenType.UNUSED) for number in ids])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_ids[0])
    if len(tokenizer.eos_token_ids) > 1:
        writer.add_eot_token_id(tokenizer.eos_token_ids[1])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    named = {"default": template} if template else {}
    if template == tokenizer.settings.chat_template:
        named |= tokenizer.settings.more_templates
    if named:
        writer.add_chat_template([{"name": name, "template": text} for name, text in named.items()])


def _write_tensors(writer: GGUFWriter, tensors: dict[str, Tensor], halves: set[str]) -> None:
    """Write the file. One tensor at a time is converted, so that the model is not in memory twice."""
    dtypes = {theirs: torch.float16 if theirs in halves else torch.float32 for theirs in tensors}
    for theirs, tensor in tensors.items():
        kind = torch.empty(0, dtype=dtypes[theirs]).numpy().dtype
        writer.add_tensor_info(theirs, tuple(tensor.shape), kind, tensor.numel() * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for theirs, tensor in tensors.items():
        stored = tensor.to(dtypes[theirs])
        if not stored.isfinite().all():
            raise CheckpointError(
                f"The weights {theirs} are too large for f16, which ends at 65,504.", "Export with `dtype=f32`."
            )
        writer.write_tensor_data(stored.contiguous().numpy())


def _use(name: str, precision: Precision, tokenizer: Tokenizer, template: str | None) -> Use:
    file = name + GGUF
    numbers = "All weights are in f32, as they were trained."
    if precision == "f16":
        numbers = "Matrices are rounded to f16; LayerNorms, biases and the position embedding are in f32."
    options = " --jinja" if template else ' -no-cnv --temp 0 -n 60 -p "The "'  # of llama.cpp's programs
    command = f"{'llama-cli' if template else 'llama-completion'} -m {quote(file)}{options}"
    unknown = template not in (None, in_jinja(tokenizer))
    return Use(
        header="pipeline_tag: text-generation\ntags: [gguf, gpt2, handloom]",
        how=f"""{numbers} With llama.cpp:

```sh
{command}
```

With Ollama, `ollama create {name.lower()}` in this folder, and in it a file `Modelfile`:

```
{_modelfile(file, tokenizer, template)}
```{_ADD_TEMPLATE if unknown else ""}""",
    )


_ADD_TEMPLATE = """

The model's chat template is in the file, in Jinja. Ollama has a language of its own for templates: where it does not
know this one, add it to the `Modelfile` as TEMPLATE."""


def _modelfile(file: str, tokenizer: Tokenizer, template: str | None) -> str:
    """Our own template in Ollama's language, and where an answer ends."""
    lines = [f"FROM ./{file}"]
    if template is None:
        return "\n".join([*lines, 'TEMPLATE "{{ .Prompt }}"'])
    if template == in_jinja(tokenizer):
        end = tokenizer.decode([tokenizer.eos_token_id])
        role = '{{ if eq .Role "system" }}System{{ else if eq .Role "user" }}User{{ else }}Assistant{{ end }}'
        turns = f"{{{{ range .Messages }}}}{role}:\n{{{{ .Content }}}}{end}{{{{ end }}}}"
        lines.append(f'TEMPLATE """{end}{turns}Assistant:\n"""')
    return "\n".join([*lines, *(f'PARAMETER stop "{tokenizer.decode([one])}"' for one in tokenizer.eos_token_ids)])
