"""A tokenizer, its ends and its chat template as llama.cpp and Ollama want them.

Knows no weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from handloom.errors import CheckpointError
from handloom.locks import TemporaryFolder
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import in_jinja
from handloom.tokenizer.vocab_files import MERGES, VOCABULARY

if TYPE_CHECKING:
    from gguf import GGUFWriter


def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, template: str | None) -> None:
    """Tokens and merges, spelled as in `vocab.json` and `merges.txt`, and what stands around them."""
    from gguf import TokenType

    with TemporaryFolder("tokenizer") as scratch:
        tokenizer.save(Path(scratch))
        vocabulary = json.loads((Path(scratch) / VOCABULARY).read_text(encoding="utf-8"))
        merges = (Path(scratch) / MERGES).read_text(encoding="utf-8").splitlines()[1:]
    words = {number: word for word, number in vocabulary.items()}
    kinds = dict.fromkeys(words, TokenType.NORMAL)
    for token in tokenizer.settings.added:
        words[token.id] = token.content
        kinds[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    kinds[tokenizer.eos_token_id] = TokenType.CONTROL
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # cut into pieces by GPT-2's pattern
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


def require_same_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise unless llama.cpp gives the same ids and ends where we do."""
    settings, why = tokenizer.settings, None
    flags = [t.content for t in settings.added if not t.special and (t.lstrip or t.rstrip or t.single_word)]
    if settings.add_prefix_space:
        why = "add_prefix_space is true, and there it is always false"
    elif settings.unk is not None or settings.ignore_merges:
        why = "unk_token or ignore_merges is set, and there they are not"
    elif flags:
        why = f"added token {flags[0]!r} has flags (lstrip, rstrip, single_word), and there it has none"
    elif len(tokenizer.eos_token_ids) > 2:
        why = f"ends are {', '.join(map(str, tokenizer.eos_token_ids))}, and a file names two at most"
    if why is not None:
        raise CheckpointError(
            f"llama.cpp would read or end texts in another way: this tokenizer's {why}.",
            "Export it with --to hf instead.",
        )


def modelfile(file: str, tokenizer: Tokenizer, template: str | None) -> str:
    """What Ollama has to be told: our own template in its language, and where an answer ends."""
    lines = [f"FROM ./{file}"]
    end = tokenizer.decode([tokenizer.eos_token_id])
    if template is None:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    elif template == in_jinja(tokenizer):
        role = '{{ if eq .Role "system" }}System{{ else if eq .Role "user" }}User{{ else }}Assistant{{ end }}'
        turns = f"{{{{ range .Messages }}}}{role}:\n{{{{ .Content }}}}{end}{{{{ end }}}}"
        lines.append(f'TEMPLATE """{end}{turns}Assistant:\n"""')
    if template is not None:
        lines += [f'PARAMETER stop "{tokenizer.decode([one])}"' for one in tokenizer.eos_token_ids]
    return "\n".join(lines)


def unknown_to_ollama(tokenizer: Tokenizer, template: str | None) -> str:
    """What has to be said of a template that we cannot put into Ollama's language."""
    if template in (None, in_jinja(tokenizer)):
        return ""
    return """

The model's chat template is in the file, in Jinja. Ollama has a language of its own for templates: where it does not
know this one, add it to the `Modelfile` as TEMPLATE."""
