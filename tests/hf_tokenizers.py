"""Folders with tokenizers that Hugging Face's own libraries trained and saved, of the kinds that people publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SAMPLE = [
    "The cat sat on the mat, and the cat's hat sat on the cat. Café, naïve, 1234 1234!\n\n  The end.\n",
    "Привет, мир! мир мира. Die Katze saß auf der Matte. O gato não está no tapete. القط على السجادة",
    "    def f(x):\n        return x + 1\n\n    def g(x):\n        return x - 1\n",
] * 3


def train(*specials: str, size: int = 400, prefix: bool = False, **options: object) -> Tokenizer:
    """A byte-level BPE that begins with its special tokens."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE, trainer)
    return tokenizer


def write_json(folder: Path, name: str, **values: object) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def pair(tokenizer: Tokenizer, folder: Path, **config: object) -> None:
    """As older versions saved it: vocab.json, merges.txt, tokenizer_config.json."""
    tokenizer.model.save(str(folder))
    write_json(folder, "tokenizer_config.json", **config)


def single(tokenizer: Tokenizer, folder: Path, **config: object) -> None:
    """As newer versions save it: tokenizer.json alone, or with tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        write_json(folder, "tokenizer_config.json", **config)


def codeparrot(folder: Path) -> None:
    pair(train("<|endoftext|>"), folder, tokenizer_class="GPT2Tokenizer", add_prefix_space=False)


def rugpt3(folder: Path) -> None:
    tokenizer = train("<pad>", "<s>", "</s>", "<unk>", "<mask>")
    tokenizer.model.save(str(folder))
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    write_json(folder, "special_tokens_map.json", **{f"{key}_token": value for key, value in names.items()})


def prefix_space(folder: Path) -> None:
    pair(train("<|endoftext|>"), folder, add_prefix_space=True)


def prefix_space_single(folder: Path) -> None:
    single(train("<s>", "</s>", prefix=True), folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>")


def prefix_space_only_in_the_single_file(folder: Path) -> None:
    """GPT-2's class overlooks what tokenizer.json says of it."""
    single(train("<|endoftext|>", prefix=True), folder, tokenizer_class="GPT2TokenizerFast")


def single_alone(folder: Path) -> None:
    single(train("<s>", "<|endoftext|>", "<pad>"), folder)


def added(folder: Path) -> None:
    tokenizer = train("<|endoftext|>")
    tokenizer.add_tokens([AddedToken("loom", normalized=False), AddedToken("the loom", normalized=True)])
    tokenizer.add_tokens([AddedToken("cat", single_word=True), AddedToken("<x>", lstrip=True, rstrip=True)])
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    single(tokenizer, folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>")


def added_apart(folder: Path) -> None:
    tokenizer = train("<|endoftext|>")
    tokenizer.model.save(str(folder))
    size = tokenizer.get_vocab_size()
    write_json(folder, "added_tokens.json", **{"<|im_end|>": size, "loom": size + 1, "<pad>": size + 2})
    write_json(folder, "special_tokens_map.json", eos_token="<|im_end|>", pad_token={"content": "<pad>"})


def added_decoder(folder: Path) -> None:
    tokenizer = train("<unk>", "<|endoftext|>")
    size = tokenizer.get_vocab_size()
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    decoder = {
        str(size): {"content": "<|im_start|>", "special": True, **flags},
        str(size + 1): {"content": "<|im_end|>", "special": True, **flags},
        str(size + 2): {"content": " ", "special": False, **flags},
    }
    pair(tokenizer, folder, eos_token="<|im_end|>", added_tokens_decoder=decoder)


def unknown_bytes(folder: Path) -> None:
    """Without the letter q: what has no token is <unk>."""
    tokenizer = train("<unk>", "</s>", unk_token="<unk>")
    values = json.loads(tokenizer.to_str())
    gone = {word for word in values["model"]["vocab"] if "q" in word or "\u0101" in word}
    vocabulary = [word for word in values["model"]["vocab"] if word not in gone]
    values["model"]["vocab"] = {word: at for at, word in enumerate(vocabulary)}
    values["model"]["merges"] = [m for m in values["model"]["merges"] if not gone & {*m, "".join(m)}]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    single(tokenizer, folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>")


def out_of_order(folder: Path) -> None:
    """A merge that can never happen: an earlier one takes its parts away."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", *letters, "bc", "ab", "abc", "aa"]
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("a", "a")]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    single(tokenizer, folder)


def one_token_two_ways(folder: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", *letters, "ab", "bc", "abc", "abcabc"]
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("abc", "abc")]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    single(tokenizer, folder)


def whole_pieces(folder: Path) -> None:
    """ignore_merges: a piece that is a word of the vocabulary is that word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", *letters, "ab", "<abc>", "bc", "abc"]
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    model = models.BPE({word: at for at, word in enumerate(words)}, merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    single(tokenizer, folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>")


FOLDERS: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        codeparrot, rugpt3, prefix_space, prefix_space_single, prefix_space_only_in_the_single_file, single_alone,
        added, added_apart, added_decoder, unknown_bytes, out_of_order, one_token_two_ways, whole_pieces,
    )
}  # fmt: skip
