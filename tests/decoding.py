"""Generated ids without text."""

from __future__ import annotations

from handloom.inference.engine import Engine


def generated(model, prompts, config, rows=None):
    """The new tokens of each prompt, all in one engine; prompt i draws from (seed, rows[i])."""
    engine, new = Engine(model), {}
    for number, prompt in enumerate(prompts):
        new[engine.add(prompt, config, row=number if rows is None else rows[number])] = []
    for event in engine.run():
        if event.error is not None:
            raise event.error
        new[event.request].append(event.token)
    return list(new.values())
