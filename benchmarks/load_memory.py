"""How much memory it takes at most to load a 124M model, as a share of its weights in float32.

    python benchmarks/load_memory.py

For files in float32, float16 and bfloat16, as safetensors and as a pickle: each is loaded in a process of its own,
which also computes one token. The weights are random.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = """
import sys, torch
from pathlib import Path
from handloom import runtime
from handloom.checkpoints import hf_folder
torch.ones(8, 8) @ torch.ones(8, 8); torch.ones(9).half().float().sum()
before = runtime.peak_memory_bytes()
model = hf_folder.open_folder(Path(sys.argv[1])).load_model()
model(torch.zeros(1, 1, dtype=torch.int64))
print(runtime.peak_memory_bytes() - before)
"""


def main() -> None:
    """Print a line for each kind of file."""
    import torch
    from safetensors.torch import save_file

    from handloom.checkpoints.hf_config import write_config
    from handloom.checkpoints.hf_folder import to_hf
    from handloom.model.config import GPTConfig
    from handloom.model.gpt import GPT

    model = GPT(GPTConfig())
    whole = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    print(f"weights in float32: {whole / 1e6:.0f} MB")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for form in ("model.safetensors", "pytorch_model.bin"):
            with tempfile.TemporaryDirectory() as folder:
                tensors = {name: t.to(dtype).contiguous() for name, t in to_hf(model).items()}
                Path(folder, "config.json").write_text(json.dumps(write_config(model.config, 0)), encoding="utf-8")
                (save_file if form.endswith("tensors") else torch.save)(tensors, Path(folder, form))
                size = Path(folder, form).stat().st_size
                done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True, check=True)
            peak = int(done.stdout)
            name = str(dtype).removeprefix("torch.")
            print(
                f"{name:<9} {form:<18} peak {peak / 1e6:4.0f} MB: {peak / whole:.2f} of that, {peak / size:.2f} files"
            )


if __name__ == "__main__":
    main()
