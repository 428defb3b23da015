"""LoRA and full tuning at 124M, batch 4 x 256: memory and speed, Handloom and transformers with PEFT.

    python benchmarks/lora.py [--steps 12] [--rank 16] [--data FILE]

A new folder is made, with GPT-2's shape and vocabulary and random weights. Both sides read the same text, add LoRA
adapters of the same rank to attention's projection of queries, keys and values, and compute in bfloat16 where this
processor does that natively. Each side is a process of its own; peak memory is the system's count for it,
speed the median of its steps.

`lora+rows` trains the rows of 200 tokens of the embedding too.

Needs transformers and peft (development extras).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import sys
from pathlib import Path
from handloom.checkpoints.hf_export import export_folder
from handloom.model.config import preset
from handloom.model.gpt import GPT
from handloom.tokenizer import load_tokenizer
export_folder(Path(sys.argv[1]), GPT(preset("gpt2")), load_tokenizer("gpt2"))
"""
OURS = """
import json, sys
from pathlib import Path
from handloom.runtime import peak_memory_bytes
from handloom.training import run
from handloom.training.config import FinetuneConfig
from handloom.training.metrics_log import read_metrics
folder, data, out, method, rank, steps, precision = sys.argv[1:]
config = FinetuneConfig(
    model=folder, data=(data,), method=method.partition("+")[0],
    trainable_tokens=200 if "+" in method else 0, rank=int(rank), alpha=2.0 * int(rank),
    target_modules=("blocks.*.attention.qkv",), context_length=256, batch_size=4,
    micro_batch_size=4, steps=int(steps), precision=precision, sample_every=0,
    eval_every=10**6, checkpoint_every=10**6, validation_fraction=0.01)
summary = run.begin(Path(out), config)
at = [r["seconds"] for r in read_metrics(Path(out)) if r["kind"] == "train"]
print(json.dumps({"peak": peak_memory_bytes(), "predicted": summary["predicted_peak_memory_bytes"],
                  "steps": [b - a for a, b in zip(at, at[1:])]}))
"""
THEIRS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel, GPT2Tokenizer
from handloom.runtime import peak_memory_bytes
folder, data, out, method, rank, steps, precision = sys.argv[1:]
model = GPT2LMHeadModel.from_pretrained(folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
if method.startswith("lora"):
    how = LoraConfig(r=int(rank), lora_alpha=2 * int(rank), target_modules=["c_attn"], fan_in_fan_out=True,
                     task_type="CAUSAL_LM",
                     trainable_token_indices={"wte": list(range(200))} if "+" in method else None)
    model = get_peft_model(model, how)
ids = GPT2Tokenizer.from_pretrained(folder)(open(data, encoding="utf-8").read()[:300000])["input_ids"]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
model.train()
taken = []
for step in range(int(steps)):
    began = time.perf_counter()
    batch = torch.tensor(ids[step * 1024 : (step + 1) * 1024]).view(4, 256)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    taken.append(time.perf_counter() - began)
print(json.dumps({"peak": peak_memory_bytes(), "predicted": None, "steps": taken}))
"""


MEASURED = ["ours lora", "theirs lora", "ours lora+rows", "theirs lora+rows", "ours full", "theirs full"]
PAIRS = (
    ("ours lora", "ours full"),
    ("ours lora", "theirs lora"),
    ("ours lora+rows", "ours lora"),
    ("ours lora+rows", "theirs lora+rows"),
)


def measured(script: str, *arguments: object) -> dict[str, object]:
    """What a process with this script says in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], check=True, capture_output=True, text=True, env=os.environ
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return found


def main() -> None:
    """Print a row for each side and method, and the ratios that matter."""
    import statistics

    from handloom.runtime import choose_precision

    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", default=MEASURED)
    asked = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch) / "gpt2", asked.data or Path(scratch) / "text.txt"
        if asked.data is None:
            from handloom.data.corpus import open_corpus

            texts = open_corpus(("python-docs",)).documents()
            data.write_text("\n\n".join(document.text() for document in texts), encoding="utf-8")
        measured(MAKE, folder)
        for name in asked.only:
            side, method = name.split()
            script = OURS if side == "ours" else THEIRS
            out = Path(scratch) / name.replace(" ", "-")
            row = measured(script, folder, data, out, method, asked.rank, asked.steps, choose_precision("auto"))
            steps = row["steps"]
            assert isinstance(steps, list)
            row["speed"] = 1024 / statistics.median(steps[2:])
            found[name] = row
            predicted = f", predicted {row['predicted'] / 1e6:,.0f}" if row["predicted"] else ""  # type: ignore[operator]
            print(f"{name:<16} {row['speed']:7,.0f} tokens/s {row['peak'] / 1e6:8,.0f} MB{predicted}", flush=True)  # type: ignore[operator]
    for one, other in PAIRS:
        if one in found and other in found:
            memory = found[one]["peak"] / found[other]["peak"]  # type: ignore[operator]
            print(f"{one} / {other}: memory {memory:.2f}, speed {found[one]['speed'] / found[other]['speed']:.2f}")  # type: ignore[operator]


if __name__ == "__main__":
    main()
