"""Bad inputs, and a small world in which each of them happens: what docs/errors.md is made from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

FOX = "The quick brown fox jumps over the lazy dog. "
TINY = (
    "--vocab-size 280 --context-length 16 --layers 1 --heads 2 --embed-dim 16 --batch-size 4 --sample-every 0 "
    "--threads 1 "
    "--precision fp32 "
)
NEWEST = Path("runs/demo/checkpoints/step-00000004")
OLDER = "runs/demo/checkpoints/step-00000002"


_HI = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
EXAMPLES = {
    "human": [_HI, '{"messages": [{"role": "human", "content": "Hi"}]}'],
    "twice": ['{"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}, '
              '{"role": "assistant", "content": "Hello"}]}'],
    "question": ['{"messages": [{"role": "user", "content": "Hi"}]}'],
    "blank": ['{"instruction": "Greet.", "output": " "}'],
    "list": [f"[{_HI}]"],
    "unweighted": ['{"messages": [{"role": "user", "content": "Hi"}, '
                   '{"role": "assistant", "content": "Yo", "weight": 0}]}'],
    "hi": [_HI],
    "same": ['{"prompt": "The", "chosen": " fox", "rejected": " fox"}'],
    "half": ['{"prompt": "The", "chosen": " fox"}'],
    "spam": ['{"text": "Buy", "label": "spam"}', '{"text": "Hi", "label": "ham"}'],
    "eggs": ['{"text": "Buy", "label": "spam"}', '{"text": "Hi", "label": "eggs"}'],
    "ham": ['{"text": "Hi", "label": "ham"}', '{"text": "Yo", "label": "ham"}'],
    "unlabelled": ['{"text": "Buy"}'],
    "again": ['{"text": "Hi", "label": "ham"}', '{"text": "Hi", "label": "spam"}'],
}  # fmt: skip


class CannotMountError(Exception):
    """This user may not make file systems of a chosen size."""


def build_world(folder: Path) -> None:
    """Files good and bad in `folder`, the run runs/demo of four steps, and a model that knows labels."""
    from handloom.checkpoints import native
    from handloom.training import run
    from handloom.training.config import TrainConfig

    texts = {
        "fox.txt": (FOX * 60).encode(),
        "empty.txt": b"",
        "picture.txt": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "latin1.txt": "Un café, s'il vous plaît. ".encode("latin-1") * 60,
        "short.txt": b"Too short.",
        "broken.jsonl": b'{"text": "fine"}\nnot JSON\n',
        "posts.jsonl": b'{"body": "fine"}\n',
        "pictures/a.png": b"\x89PNG",
        "wrong-key.toml": b"learnin_rate = 0.1\n",
        "wrong-kind.toml": b'steps = "many"\n',
        "broken.toml": b"steps = = 3\n",
        "long.txt": (FOX * 10).encode(),
        "bert-hf/config.json": b'{"model_type": "bert"}',
        "gpt2-hf/config.json": b'{"model_type": "gpt2", "add_cross_attention": true}',
        "gpt2-empty/config.json": b'{"model_type": "gpt2", "vocab_size": 300}',
        "prompts.txt": b"The quick\n\nThe lazy\n",
        "notes/readme.txt": b"no model here",
        "piqa.jsonl": b'{"goal": "Open a jar", "sol1": "Turn it.", "sol2": "Eat it."}\n',
        "labels.lst": b"yes\n",
        "items.jsonl": b'{"context": "One,", "choices": ["two", "three"], "answer": 2}\n',
        "long-choice.jsonl": b'{"context": "a", "choices": ["Zq", "' + b"Zq" * 20 + b'"], "answer": 0}\n',
        **{f"{name}.jsonl": "\n".join(lines).encode() for name, lines in EXAMPLES.items()},
        "twice.txt": b"The quick\nThe lazy\nThe quick\n",
    }
    for name, content in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config = TrainConfig(
        data=("fox.txt",),
        vocab_size=280,
        context_length=16,
        layers=1,
        heads=2,
        embed_dim=16,
        batch_size=4,
        steps=4,
        checkpoint_every=2,
        eval_every=4,
        sample_every=0,
        threads=1,
        precision="fp32",
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        run.begin(Path("runs/demo"), config)
        demo = native.open_checkpoint(NEWEST)
        model = demo.load_model()
        from handloom.model.surgery import add_classification_head

        add_classification_head(model, ("ham", "spam"), 0)
        native.save(Path("runs/spam"), model, demo.load_tokenizer(), {})
        native.save(Path("runs/later"), demo.load_model(), demo.load_tokenizer(), {"template": "turns-9"})
    finally:
        os.chdir(before)
    build_models(folder)


def build_models(folder: Path) -> None:
    """Hugging Face folders: `plain` has the shape of the run, `wider` not; `pulled` has the tokenizer of the latter."""
    from handloom import storage
    from handloom.checkpoints.hf_export import export_folder
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT
    from handloom.tokenizer.train import train_bpe

    plain, other = train_bpe([], 257), train_bpe(["another text " * 9], 260)
    shape = {"vocab_size": 280, "context_length": 16, "layers": 1, "heads": 2}
    export_folder(folder / "plain", GPT(GPTConfig(embed_dim=16, **shape)), plain)
    export_folder(folder / "wider", GPT(GPTConfig(embed_dim=32, **shape)), other)
    export_folder(folder / "pulled", GPT(GPTConfig(embed_dim=16, **shape)), plain)
    described = storage.read_json(folder / "pulled" / storage.MANIFEST)
    storage.write_json(folder / "pulled" / "origin.json", {"repository": "acme/tiny", "files": described})
    shutil.copy(folder / "wider" / "vocab.json", folder / "pulled" / "vocab.json")


@contextmanager
def small_disk(folder: Path, size: str, *more: str):
    """A file system of that size at `folder`, while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *more)), "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotMountError from error
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


# What is done to the world before the command is run. Each gets a stack for what must be undone.


def nothing(stack: ExitStack) -> None:
    pass


def flip_weights(stack: ExitStack) -> None:
    path = NEWEST / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_weights(stack: ExitStack) -> None:
    (NEWEST / "model.safetensors").unlink()


def flip_all(stack: ExitStack) -> None:
    for path in Path("runs/demo/checkpoints").glob("*/training.json"):
        path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))


def remove_checkpoints(stack: ExitStack) -> None:
    for path in Path("runs/demo/checkpoints").iterdir():
        shutil.rmtree(path)


def change_text(stack: ExitStack) -> None:
    Path("fox.txt").write_text(FOX * 61, encoding="utf-8")


def _shard() -> Path:
    return next(Path(os.environ["HANDLOOM_CACHE"]).glob("data/*/train.tokens"))


def foreign_shard(stack: ExitStack) -> None:
    _shard().write_bytes(b"token soup" * 100)


def cut_shard(stack: ExitStack) -> None:
    _shard().write_bytes(_shard().read_bytes()[:-1])


def flip_shard(stack: ExitStack) -> None:
    content = bytearray(_shard().read_bytes())
    content[-1] ^= 1
    _shard().write_bytes(content)


def without_gguf(stack: ExitStack) -> None:
    stack.enter_context(mock.patch.dict(sys.modules, {"gguf": None}))


def relu_model(stack: ExitStack) -> None:
    from handloom.checkpoints.hf_export import export_folder
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT
    from handloom.tokenizer.train import train_bpe

    config = GPTConfig(258, context_length=8, layers=1, heads=1, embed_dim=4, activation="relu")
    export_folder(Path("gpt2-relu"), GPT(config), train_bpe(["aa aa"], 258))


def full_disk(stack: ExitStack) -> None:
    stack.enter_context(small_disk(Path("disk"), "2m"))


def full_cache(stack: ExitStack) -> None:
    cache = Path("disk")
    stack.enter_context(small_disk(cache, "4k"))
    os.environ["HANDLOOM_CACHE"] = "disk"


def read_only_disk(stack: ExitStack) -> None:
    stack.enter_context(small_disk(Path("disk"), "2m", "ro"))


def mix_tokenizers(stack: ExitStack) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path("wider", name), Path("plain", name))


@dataclass(frozen=True)
class BadInput:
    """One row of the document."""

    what: str
    command: str
    """As typed into a shell; may begin with a pipe into the command."""
    before: Callable[[ExitStack], None] = nothing


def tune(task: str, data: str) -> str:
    """A command that tunes, of runs/demo unless it says otherwise."""
    model = "" if "--model" in data else " --model runs/demo"
    return f"handloom finetune --task {task} --data {data}{model} --run runs/new --sample-every 0 --threads 1"


def tune_text(*flags: str) -> str:
    """A command that tunes runs/demo on running text."""
    return f"handloom finetune {' '.join(flags)} --data fox.txt --model runs/demo --run runs/new"


CASES = [
    # Text
    BadInput("An empty file", "handloom train --data empty.txt --run runs/new"),
    BadInput("A binary file", "handloom train --data picture.txt --run runs/new"),
    BadInput("A file that is not UTF-8", "handloom train --data latin1.txt --run runs/new"),
    BadInput("A text shorter than a window", "handloom train --data short.txt --tokenizer gpt2 --run runs/new"),
    BadInput("A missing file", "handloom train --data foxx.txt --run runs/new"),
    BadInput("A folder without text", "handloom train --data pictures --run runs/new"),
    BadInput("A pattern that nothing matches", 'handloom train --data "*.rst" --run runs/new'),
    BadInput("A line that is not JSON", "handloom train --data broken.jsonl --run runs/new"),
    BadInput("A JSON line without the field", "handloom train --data posts.jsonl --run runs/new"),
    BadInput("An empty standard input", "printf '' | handloom data prepare --data -"),
    BadInput("Nothing to check", "handloom data check"),
    BadInput("A missing file to check", "handloom data check --data foxx.txt"),
    BadInput("A task to check for that does not exist", "handloom data check --task instrct --data posts.jsonl"),
    BadInput("Examples to check that are not records", "handloom data check --task sft --data fox.txt"),
    BadInput("Examples to check through a pipe", "printf '{}' | handloom data check --task sft --data -"),
    BadInput("No context to check for", "handloom data check --data fox.txt --context-length 0"),
    BadInput("Nothing held out", "handloom data check --data fox.txt --validation-fraction 0"),
    BadInput("A model to measure with that is not there", "handloom data check --data fox.txt --tokenizer no"),
    BadInput("A foreign shard", "handloom train --resume runs/demo", foreign_shard),
    BadInput("A truncated shard", "handloom train --resume runs/demo", cut_shard),
    BadInput("A shard with a flipped bit", "handloom train --resume runs/demo", flip_shard),
    # Flags and settings
    BadInput("An unknown flag", "handloom train --learnin-rate 0.1"),
    BadInput("An unknown command", "handloom generat Hello"),
    BadInput("A value of the wrong kind", "handloom train --steps many"),
    BadInput("A flag without its value", "handloom generate Hello --stop"),
    BadInput("A word too many", "handloom generate Hello world"),
    BadInput("A text that begins with a hyphen", 'handloom generate "-5 degrees"'),
    BadInput("A wrong config key", "handloom train --config wrong-key.toml"),
    BadInput("A config value of the wrong kind", "handloom train --config wrong-kind.toml"),
    BadInput("A config file that is not TOML", "handloom train --config broken.toml"),
    BadInput("A missing config file", "handloom train --config nothing.toml"),
    BadInput("A setting out of its range", "handloom train --learning-rate 0"),
    BadInput("Settings that contradict each other", "handloom train --steps 10 --minutes 1"),
    BadInput(
        "Heads that cannot share the width", "handloom train --embed-dim 16 --heads 3 --data fox.txt --run runs/new"
    ),
    BadInput("An unknown preset", "handloom train --preset micr --data fox.txt --run runs/new"),
    # Settings of tuning
    BadInput("Nothing to tune on", "handloom finetune --model runs/demo --run runs/new"),
    BadInput("A method that does not exist", tune_text("--method lorra")),
    BadInput("More blocks than there are", tune_text("--method last:9")),
    BadInput("A method and patterns", tune_text("--method lora", "--train-params '*.bias'")),
    BadInput("A pattern that fits no parameter", tune_text("--train-params 'blocks.0.atention.*'")),
    BadInput("A target of LoRA that is not a layer", tune_text("--target-modules 'blocks.*.norm'")),
    BadInput("A head to untie where none learns", tune_text("--untie-embeddings")),
    BadInput("A rank of nothing", tune_text("--rank 0")),
    BadInput("Fewer than no rows", tune_text("--trainable-tokens -1")),
    BadInput("Rows for more tokens than there are", tune_text("--trainable-tokens 100000")),
    BadInput("Rows for tokens without LoRA", tune_text("--trainable-tokens 5 --method norms")),
    BadInput("A task of tuning that does not exist", tune_text("--task chat")),
    BadInput("Rows longer than the context", tune_text("--context-length 99")),
    BadInput("A stride where there are no windows", tune_text("--task sft", "--stride 4")),
    BadInput("A model to tune that is not there", "handloom finetune --data fox.txt --model gpt2-large --run runs/new"),
    BadInput("A run from scratch, to be tuned on", "handloom finetune --resume runs/demo"),
    # Runs and checkpoints
    BadInput("A missing run", "handloom generate Hello --model runs/nothing"),
    BadInput("A missing run to go on with", "handloom train --resume runs/nothing"),
    BadInput("A run that is there already", "handloom train --data fox.txt --run runs/demo"),
    BadInput("A run folder that is a file", "handloom train --data fox.txt --run fox.txt"),
    BadInput("A folder that is not a model", "handloom generate Hello --model notes"),
    BadInput("A model of another kind", "handloom generate Hello --model bert-hf"),
    BadInput("A GPT-2 that computes something else", "handloom generate Hello --model gpt2-hf"),
    BadInput("A GPT-2 without weights", "handloom generate Hello --model gpt2-empty"),
    BadInput("A model that was not pulled", "handloom generate Hello --model gpt2-medium"),
    BadInput("A folder to export to that is there", "handloom export runs/demo notes --to hf"),
    BadInput("An export in a form that there is not", "handloom export runs/demo new --to onnx"),
    BadInput("A Hugging Face folder in halves", "handloom export runs/demo new --to hf --dtype f16"),
    BadInput("A GGUF file without the library for it", "handloom export runs/demo new --to gguf", without_gguf),
    BadInput("A model that llama.cpp computes otherwise", "handloom export gpt2-relu new --to gguf", relu_model),
    BadInput("A name that llama.cpp misunderstands", "handloom export runs/demo phi3-fox --to gguf"),
    BadInput("A run without a checkpoint", "handloom generate Hello --model runs/demo", remove_checkpoints),
    BadInput("An incomplete checkpoint", f"handloom generate Hello --model {NEWEST.as_posix()}", remove_weights),
    BadInput("A checkpoint with a flipped bit", f"handloom generate Hello --model {NEWEST.as_posix()}", flip_weights),
    BadInput("A run whose checkpoints are all damaged", "handloom generate Hello --model runs/demo", flip_all),
    BadInput("A changed text under a run", "handloom train --resume runs/demo", change_text),
    BadInput("A setting that cannot change", "handloom train --resume runs/demo --embed-dim 32"),
    BadInput("A new run and an old one", "handloom train --resume runs/demo --overwrite"),
    BadInput("A missing tokenizer", "handloom tokenize Hello --tokenizer nothing"),
    BadInput("A training that diverges", f"handloom train --data fox.txt --run runs/new {TINY}--learning-rate 1e38"),
    # The disk
    BadInput("No space for a checkpoint", f"handloom train --data fox.txt --run disk/run {TINY}".strip(), full_disk),
    BadInput("No space for prepared data", "handloom data prepare --data fox.txt", full_cache),
    BadInput("A read-only folder", f"handloom train --data fox.txt --run disk/run {TINY}".strip(), read_only_disk),
    # Models held against each other
    BadInput("A precision that does not exist", "handloom verify runs/demo --against fp16"),
    BadInput("Two models of different shapes", "handloom verify runs/demo --against wider"),
    BadInput("A tolerance below nothing", "handloom verify runs/demo --tolerance -1"),
    BadInput("A text with nothing to compare", "handloom verify runs/demo --text Hello"),
    BadInput("Two texts to compare on", "handloom verify --against bf16 --text Hello --text-file fox.txt"),
    BadInput("A text over the context to compare on", "handloom verify --against bf16 --text-file long.txt"),
    BadInput("A missing text file", "handloom verify --against bf16 --text-file nothing.txt"),
    BadInput("A text file that is not UTF-8", "handloom verify --against bf16 --text-file latin1.txt"),
    BadInput("Tokens that the other tokenizer lacks", "handloom verify runs/demo --against plain"),
    BadInput("A tokenizer of another model", "handloom generate Hello --model plain", mix_tokenizers),
    BadInput("A changed tokenizer of a pulled model", "handloom generate Hello --model pulled"),
    # Writing
    BadInput("An empty prompt", 'handloom generate ""'),
    BadInput("No prompt at all", "handloom generate"),
    BadInput("Two prompts", "handloom generate Hello --new-document"),
    BadInput("A missing prompt file", "handloom generate --prompt-file nothing.txt"),
    BadInput("A prompt that is not UTF-8", r"printf 'caf\351' | handloom generate -"),
    BadInput("A lone surrogate in the prompt", r"handloom generate $'caf\351'"),
    BadInput("A prompt over the context", "handloom generate --prompt-file long.txt"),
    BadInput("A prompt and new text over the context", "handloom generate Hello --max-new-tokens 100"),
    BadInput("A negative temperature", "handloom generate Hello --temperature -0.5"),
    BadInput("A share above 1", "handloom generate Hello --top-p 1.5"),
    BadInput("A choice that does not exist", "handloom generate Hello --overflow slid"),
    BadInput("No text asked for", "handloom generate Hello -n 0"),
    BadInput("An empty stop string", 'handloom generate Hello --stop ""'),
    BadInput("A penalty out of its range", "handloom generate Hello --repetition-penalty 0"),
    BadInput("An n-gram of nothing", "handloom generate Hello --no-repeat-ngram-size 0"),
    BadInput("A bias that is not a pair", "handloom generate Hello --logit-bias 7"),
    BadInput("A bias out of its range", "handloom generate Hello --logit-bias 7=1000"),
    BadInput("A bias of a text of several tokens", 'handloom generate Hello --max-new-tokens 3 --logit-bias "zzz=1"'),
    BadInput("A token that does not exist", "handloom generate Hello --max-new-tokens 3 --logit-bias 9999=1"),
    BadInput("An empty bad word", 'handloom generate Hello --bad-words ""'),
    BadInput("A least length over the most", "handloom generate Hello --max-new-tokens 3 --min-new-tokens 4"),
    BadInput("Beams and a draw", "handloom generate Hello --num-beams 2 --top-k 5"),
    BadInput("More texts than beams", "handloom generate Hello --num-beams 2 -n 3 --max-new-tokens 3"),
    BadInput("Streaming a beam search", "handloom generate Hello --num-beams 2 --stream"),
    BadInput("Log probabilities without JSON", "handloom generate Hello --logprobs 3"),
    BadInput("An empty line among the prompts", "handloom generate --prompts prompts.txt"),
    BadInput("A prompt and a file of prompts", "handloom generate Hello --prompts prompts.txt"),
    BadInput("Batches of nothing", "handloom generate Hello --batch-size 0"),
    BadInput("A line of a chat that is not UTF-8", r"printf 'caf\351' | handloom chat runs/demo"),
    BadInput("Streaming several texts", "handloom generate Hello --stream -n 2"),
    # Measuring
    BadInput("A missing text to measure on", "handloom evaluate --data foxx.txt"),
    BadInput("No text to measure on", "handloom evaluate runs/demo"),
    BadInput("A task that does not exist", "handloom evaluate --data items.jsonl --task choise"),
    BadInput("A stride over the context", "handloom evaluate --data fox.txt --stride 17"),
    BadInput("A context over the model's", "handloom evaluate --data fox.txt --context-length 17"),
    BadInput("Documents of nothing", "handloom evaluate --data fox.txt --limit 0"),
    BadInput("A flag of texts for questions", "handloom evaluate --data items.jsonl --stride 4"),
    BadInput("A flag of questions for texts", "handloom evaluate --data fox.txt --items out.jsonl"),
    BadInput("Several files of questions", "handloom evaluate --data items.jsonl fox.txt --task choice"),
    BadInput("An answer that is not a choice", "handloom evaluate --data items.jsonl"),
    BadInput("Questions without answers", "handloom evaluate --data piqa.jsonl"),
    BadInput("Answers that are not numbers", "handloom evaluate --data piqa.jsonl --labels labels.lst"),
    BadInput("Questions of another task", "handloom evaluate --data piqa.jsonl --task arc"),
    BadInput("A choice over the context", "handloom evaluate --data long-choice.jsonl"),
    BadInput("A harness without its model", "handloom lm-eval runs/nothing --tasks piqa"),
    BadInput("Ids that are not numbers", "handloom tokenize --decode abc"),
    # Examples to tune on
    BadInput("Examples that are not records", tune("sft", "fox.txt")),
    BadInput("Examples through a pipe", tune("sft", "-")),
    BadInput("A list instead of objects", tune("sft", "list.jsonl")),
    BadInput("A conversation of another form", tune("sft", "posts.jsonl")),
    BadInput("An unknown role", tune("sft", "human.jsonl")),
    BadInput("Two messages of the user in a row", tune("sft", "twice.jsonl")),
    BadInput("A conversation without an answer", tune("sft", "question.jsonl")),
    BadInput("An empty answer", tune("sft", "blank.jsonl")),
    BadInput("A conversation in which nothing is learned", tune("sft", "unweighted.jsonl")),
    BadInput("A conversation over the context", tune("sft", "hi.jsonl")),
    BadInput("Nothing left of an answer", tune("sft", "hi.jsonl --overlong truncate")),
    BadInput("Nothing but conversations over the context", tune("sft", "hi.jsonl --overlong skip")),
    BadInput("A pair without its other answer", tune("dpo", "half.jsonl")),
    BadInput("A pair of equal answers", tune("dpo", "same.jsonl")),
    BadInput("A text without a label", tune("classify", "unlabelled.jsonl")),
    BadInput("A single label", tune("classify", "ham.jsonl")),
    BadInput("A single text", tune("classify", "again.jsonl")),
    BadInput("A label that the model does not know", tune("classify", "eggs.jsonl --model runs/spam")),
    # Using what was tuned
    BadInput("A model without labels", "handloom classify Hello --model runs/demo"),
    BadInput("No text to classify", "handloom classify --model runs/spam"),
    BadInput("An empty text to classify", 'handloom classify "" --model runs/spam'),
    BadInput("A text and a file to classify", "handloom classify Hello --texts fox.txt --model runs/spam"),
    BadInput("An empty line among the texts", "handloom classify --texts prompts.txt --model runs/spam"),
    BadInput("A text to classify over the context", "handloom classify --texts long.txt --model runs/spam"),
    BadInput("Conversations of a later version", "handloom chat runs/later"),
    BadInput("A system's message to a base model", 'handloom chat runs/demo --system "Be brief."'),
    # Comparing
    BadInput("One model to compare", "handloom compare runs/demo"),
    BadInput("A model to compare that is named twice", "handloom compare runs/demo runs/demo"),
    BadInput("A model to compare under two names", f"handloom compare runs/demo {NEWEST.as_posix()}"),
    BadInput("A file of prompts that is empty", f"handloom compare runs/demo {OLDER} --prompts empty.txt"),
    BadInput("A file of prompts with one twice", f"handloom compare runs/demo {OLDER} --prompts twice.txt"),
    BadInput("A page to a folder that is missing", f"handloom compare runs/demo {OLDER} --out pages/a.html"),
    BadInput("A page to a folder itself", f"handloom compare runs/demo {OLDER} --out runs"),
    BadInput("Texts to compare over a context", f"handloom compare runs/demo {OLDER}"),
    BadInput("A missing held-out text", f"handloom compare runs/demo {OLDER} --max-new-tokens 2 --data foxx.txt"),
    BadInput("Too little text to compare on", f"handloom compare runs/demo {OLDER} --text-bytes 10"),
]


def words_of(command: str) -> tuple[list[str], bytes | None]:
    """The words that a shell would hand over, and what it would pipe in."""
    import shlex

    piped = None
    if " | " in command:
        source, command = command.split(" | ", 1)
        piped = _bytes(shlex.split(source)[1])
    quoted = re.sub(r"\$'([^']*)'", lambda found: _bytes(found.group(1)).decode("utf-8", "surrogateescape"), command)
    return shlex.split(quoted)[1:], piped


def _bytes(escaped: str) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found.group(1), 8)]), escaped.encode())


def normalized(message: str) -> str:
    """What may be different on another machine, replaced by a name."""
    message = message.removesuffix("\n")
    message = re.sub(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{12})\b", "KEY", message)
    message = re.sub(r"\b[\d.,]*\d MB\b", "N MB", message)
    message = re.sub(r"http://127\.0\.0\.1:\d+", "HUB", message)
    for before, after in _FOREIGN_WORDS:
        message = re.sub(f"({before}).*?({after})", r"\1REASON\2", message)
    return message


_FOREIGN_WORDS = [
    (r"theirs/\S+ cannot be read: ", r"\. (?:Copy|Use|Handloom) "),
    (r"is not complete JSON: ", r"\. Handloom "),
    (r"The connection to HUB failed: ", r"\. Check "),
    (r"not as a hub of models does \(", r"\)\. Check "),
]
"""What stands before and behind words of the system or of another library, which differ between versions."""
