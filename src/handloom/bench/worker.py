"""A process that measures one row: `python -m handloom.bench.worker SPEC`, JSON lines on standard input and output.

It prints what it is once it is warm; then, for each line that it reads, one round. See `rounds.Worker`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from handloom import runtime
from handloom.bench import training_workloads, workloads
from handloom.bench.kinds import KINDS, Train
from handloom.bench.models import open_model
from handloom.bench.workloads import Workload
from handloom.console import note
from handloom.errors import HandloomError
from handloom.quantization.precision import described
from handloom.values import parse_json

WORK = {"decode": workloads.decode, "prefill": workloads.prefill, "batch": workloads.batch}


def main() -> None:
    """Serve rounds until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints on standard error

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    spec = parse_json(sys.argv[1])
    try:
        threads, began = runtime.set_num_threads(spec["settings"]["threads"]), time.perf_counter()
        workload, facts = prepare(spec)
        loaded = time.perf_counter() - began
        with workload.surrounding:
            agreement = workload.agreement(Path(spec["reference"]), spec["writes_reference"])
            workload.round(0)
            answer(threads=threads, load_seconds=loaded, agreement=agreement, **facts, **workload.facts)
            for line in sys.stdin:
                if (count := parse_json(line)) is not None:
                    runtime.set_num_threads(count)
                done = workload.round(spec["settings"]["least_seconds"])
                answer(**dataclasses.asdict(done), peak_memory_bytes=runtime.peak_memory_bytes())
    except HandloomError as error:
        answer(problem=error.problem, remedy=error.remedy)


def prepare(spec: dict[str, Any]) -> tuple[Workload, dict[str, Any]]:
    """The work that a spec describes, and what the row says of it."""
    settings, precision = KINDS[spec["kind"]](**spec["settings"]), spec["precision"]
    trains = isinstance(settings, Train)
    model = open_model(settings.model, "fp32" if trains else precision, note)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    computed_by = "PyTorch" if trains else described(model).partition(", ")[2]
    facts = {"parameters": parameters, "backend": computed_by}
    if isinstance(settings, Train):
        folder = Path(spec["reference"]).with_name(f"run-{precision}")
        return training_workloads.train(settings, model, precision, folder), facts
    return WORK[spec["kind"]](settings, model), facts


if __name__ == "__main__":
    main()
