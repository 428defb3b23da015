"""Digests of what a commit computes, so that two commits can be compared on one machine.

    python benchmarks/digests.py FOLDER > after.txt     # and on the other commit > before.txt; then diff the two

Weights after 50 steps of the demo's settings, whole and resumed; a tuning of each task, stopped and resumed; greedy,
sampled and beam texts; and what `verify` prints of a folder of GPT-2's 124M shape with random weights (transformers
makes it). The digest of a checkpoint is over its tensors, whatever they are called.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

WORDS = [
    "the",
    "red",
    "fox",
    "sees",
    "a",
    "blue",
    "house",
    "and",
    "the",
    "old",
    "man",
    "walks",
    "to",
    "a",
    "green",
    "tree",
    "by",
    "the",
    "sea",
]
THREADS = ("--threads", "2")
COMMON = (*THREADS, "--precision", "fp32", "--sample-every", "0", "--overwrite")
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {WORDS[i % 19]} {i}?"},
            {"role": "assistant", "content": f"It is {WORDS[i * 7 % 19]} and {WORDS[i * 3 % 19]}."},
        ]
    }
    for i in range(80)
]
PAIRS = [
    {
        "prompt": f"Say {WORDS[i % 19]} {i}",
        "chosen": f"{WORDS[i * 7 % 19]} it is",
        "rejected": f"no {WORDS[i * 3 % 19]}",
    }
    for i in range(80)
]
TEXTS = [{"text": f"{WORDS[i % 19]} {WORDS[i * 5 % 19]} {i}", "label": "ab"[i % 2]} for i in range(80)]
TUNINGS = {
    "sft-lora": "--task sft --data {}/conv.jsonl --method lora --trainable-tokens 8",
    "sft-dora": "--task sft --data {}/conv.jsonl --method lora --use-dora --lora-dropout 0.1",
    "dpo-lora": "--task dpo --data {}/pref.jsonl --method lora",
    "classify": "--task classify --data {}/lab.jsonl --method last:1",
    "text-full": "--task text --data {}/conv.jsonl --json-as-text --method full --optimizer muon --dropout 0.1",
}
DEMO = "The --model demo"
FOX = "--max-new-tokens 40 --model gpt2-random"
GENERATIONS = {
    "greedy": f"{DEMO} --temperature 0 --max-new-tokens 60",
    "greedy slide": f"{DEMO} --temperature 0 --max-new-tokens 300 --overflow slide",
    "sampled": f"{DEMO} --top-p 0.9 --seed 3 --n 3",
    "sampled all": f"{DEMO} --top-k 50 --top-p 0.9 --min-p 0.01 --typical-p 0.95 --repetition-penalty 1.1 --seed 4",
    "prompts": "--prompts prompts.txt --model demo --seed 5",
    "beams": f"{DEMO} --num-beams 4",
    "adapter": "What --model sft-lora --temperature 0",
    "adapter half": "What --model demo --adapter sft-lora:0.5 --temperature 0",
    "greedy 124M": f"Brown {FOX} --temperature 0",
    "sampled 124M": f"Brown {FOX} --top-p 0.9 --seed 1 --n 2",
}


def handloom(work: Path, *words: str) -> str:
    """A command in the folder `work`; its output."""
    command = [sys.executable, "-m", "handloom", *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=work)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def digest_of(*values: bytes) -> str:
    return hashlib.sha256(b"".join(values)).hexdigest()[:16]


def weights(run: Path) -> str:
    """The digest of a run's last checkpoint: of its tensors in an order that no name decides."""
    import torch
    from safetensors.torch import load_file

    last = max((run / "checkpoints").glob("step-*"))
    (file,) = [
        path for path in last.rglob("*.safetensors") if path.name in ("model.safetensors", "adapter_model.safetensors")
    ]
    tensors = load_file(file).values()
    return digest_of(
        *sorted(repr(tuple(t.shape)).encode() + t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors)
    )


def random_gpt2(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)


def main(work: Path) -> None:
    work.mkdir(parents=True)
    for name, records in (("conv", CONVERSATIONS), ("pref", PAIRS), ("lab", TEXTS)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    (work / "prompts.txt").write_text("The\nReturn the\nPython is\n", encoding="utf-8")
    handloom(work, "train", "--run", "demo", "--steps", "50", *COMMON)
    print("demo, 50 steps:", weights(work / "demo"), flush=True)
    handloom(work, "train", "--run", "halted", "--steps", "50", "--stop-after", "23", *COMMON)
    handloom(work, "train", "--resume", "halted")
    print("the same, stopped at 23 and resumed:", weights(work / "halted"), flush=True)
    for name, words in TUNINGS.items():
        tuning = ["--model", "demo", "--run", name, "--steps", "12", "--stop-after", "5", *COMMON]
        handloom(work, "finetune", *words.format(work).split(), *tuning)
        handloom(work, "finetune", "--resume", name)
        print(f"{name}, stopped at 5 and resumed at 12:", weights(work / name), flush=True)
    random_gpt2(work / "gpt2-random")
    for name, words in GENERATIONS.items():
        lines = handloom(work, "generate", *words.split(), *THREADS, "--json").splitlines()
        shown = [[json.loads(line)[key] for key in ("text", "ids")] for line in lines]
        print(f"{name}:", digest_of(json.dumps(shown).encode()), flush=True)
    print(handloom(work, "verify", "gpt2-random", *THREADS, "--json"), end="")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve())
