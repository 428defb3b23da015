"""The only training loop: step, validate, sample, save; stop and go on at any point.

It owns no settings (`config`), no data and no loss (`objective`), no arithmetic of the update
(`optimizer`), no files' layout (`checkpoints`), no screen (`report`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from handloom import runtime, screen
from handloom.checkpoints import native
from handloom.errors import HandloomError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.model.gpt import GPT
from handloom.model.interface import Backbone
from handloom.tokenizer.base import Tokenizer
from handloom.tokenizer.chat import Message
from handloom.training.config import LoopSettings
from handloom.training.metrics_log import METRICS, MetricsLogger
from handloom.training.objective import Batch, EvalResult, Objective
from handloom.training.optimizer import Optimizer
from handloom.training.progress import Reporter
from handloom.training.schedule import learning_rate_factor, warmup_length
from handloom.training.seeding import reseed
from handloom.training.signals import StopRequest
from handloom.training.sizes import STEPS
from handloom.training.time_budget import EVENTS, StepTimer


class DivergenceError(HandloomError):
    """The loss or a gradient is no number any more."""


@dataclass
class Progress:
    """What a run must remember beside its weights; saved in every checkpoint."""

    step: int = 0
    total: int | None = None
    """Steps of the whole run; None while they are still being measured."""
    tokens: int = 0
    seconds: float = 0.0
    """Computing time of the whole run up to now, validations, samples and saving included."""
    step_seconds: float = 0.0
    """Time in optimizer steps alone."""
    best_step: int | None = None
    best_loss: float = math.inf
    predicted_seconds: float | None = None
    """How long the whole run would take, as predicted when its steps were chosen last."""


Save = Callable[[Path, dict[str, Any], dict[str, Tensor]], None]
"""Writes a checkpoint: its folder, what to come back to as JSON values, the optimizer's tensors."""


class Trainer:
    """A model, an objective and an optimizer, on their way from step to step.

    Args:
        run: the run's folder.
        config: with threads and precision already decided.
        tokenizer: of the model, for samples.
        objective: what is learned from what.
        model: trained in place.
        optimizer: over the parameters to train.
        progress: where to go on from.
        reporter: told what happens.
        save: writes a checkpoint.
        reader: what the objective reads through, if it is not the model itself.
    """

    def __init__(
        self,
        run: Path,
        config: LoopSettings,
        tokenizer: Tokenizer,
        objective: Objective,
        model: GPT,
        optimizer: Optimizer,
        progress: Progress,
        reporter: Reporter,
        save: Save,
        reader: Backbone | None = None,
    ) -> None:
        self.run, self.config, self.tokenizer, self.objective = run, config, tokenizer, objective
        self.model, self.optimizer, self.progress, self.reporter = model, optimizer, progress, reporter
        self.reader: Backbone = reader or model
        self._save = save
        self.finding: EvalResult | None = None
        self.log = MetricsLogger(
            run, keep_until=progress.step if progress.step else -1, unit=objective.unit, tensorboard=config.tensorboard
        )
        if self.log.damaged:
            reporter.warning(
                f"Lines of {METRICS} could not be read and are left out; the file as it was is kept as "
                f"{self.log.damaged}."
            )
        self.pace = StepTimer(progress.seconds)
        self._told_lost: set[str] = set()

    def train(self, wish: StopRequest, stop_after: int | None = None) -> bool:
        """Go on until the end, or until somebody wishes to stop.

        Args:
            wish: looked at between two passes through the model.
            stop_after: the step after which to stop as if somebody wished so.

        Returns:
            whether the run has reached its end.

        Raises:
            DivergenceError: at the first loss or gradient that is not finite; nothing was updated with it.
        """
        with self.pace.clock.beating():
            return self._train(wish, stop_after)

    def _train(self, wish: StopRequest, stop_after: int | None) -> bool:
        progress = self.progress
        if progress.step == 0 and not self.log.records:
            self.validate()
            self.sample()
            self.save()
        self._choose_total()
        while not (
            wish.stop or progress.step == progress.total or (stop_after is not None and progress.step >= stop_after)
        ):
            if not self.step(wish):
                break
            chosen = self._choose_total()
            if self._due(self.config.eval_every):
                self.validate()
            if self._due(self._sample_every()):
                self.sample()
            if chosen or self._due(self.config.checkpoint_every) or progress.best_step == progress.step:
                self.save()
        if not native.step_folder(self.run, progress.step).exists():
            self.save()
        self._record_lost_output()
        self.log.close()
        return progress.step == progress.total

    def step(self, wish: StopRequest) -> bool:
        """One optimizer step over `batch_size` sequences.

        The gradient is that of the mean over all that counts in the step, however many passes it is
        computed in. Interrupted between two passes it changes nothing: the step is done again when
        the run goes on, with the same numbers.

        Returns:
            whether the step was completed.
        """
        began, config, progress = self.pace.seconds, self.config, self.progress
        batch = self.objective.batch(progress.step)
        count, tokens = self.objective.num_targets(batch), self.objective.tokens(batch)
        loss = 0.0
        self.reader.train()
        self.optimizer.zero_grad()
        for micro_step, part in enumerate(parts(batch, config.accumulation)):
            if wish.stop:
                return False
            reseed(config.seed, progress.step, micro_step)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                total = self.objective.loss(self.reader, part)
            (total / count).backward()
            loss += total.item() / count
        norm = self._clip_gradients(loss)
        factor = self._learning_rate_factor()
        self.optimizer.step(factor)
        progress.step += 1
        progress.tokens += tokens
        progress.seconds = self.pace.seconds
        self.pace.stepped(progress.seconds - began)
        progress.step_seconds += progress.seconds - began
        self._record_step(loss, norm, factor, tokens)
        return True

    def validate(self) -> EvalResult:
        """The loss on all held-out data, in float32: what anybody who loads the model will find."""
        began = self.pace.seconds
        found = self.objective.evaluate(self.reader)
        if not math.isfinite(found.loss):
            self._diverged("the validation loss is not finite")
        progress = self.progress
        self.log.add("validation", progress.step, loss=found.loss, **found.figures, seconds=self.pace.seconds)
        if found.loss < progress.best_loss:
            progress.best_step, progress.best_loss = progress.step, found.loss
        self.finding = found
        self.reporter.validation(progress.step, found, self._recent_loss())
        if is_overfitting(self._recent_loss(), found.loss, progress.best_loss):
            self.reporter.warning(
                f"Training loss {self._recent_loss():.3f} and validation loss {found.loss:.3f} part: "
                f"the model is memorizing. Its best was at step {progress.best_step}, which is kept. "
                "More text, dropout, or fewer steps would help."
            )
        self.pace.paused("validation", self.pace.seconds - began, self.config.eval_every)
        return found

    def sample(self) -> None:
        """Let the model write, and keep what it wrote."""
        if self._sample_every() == 0:
            return
        began = self.pace.seconds
        template = self.objective.template
        lm = LanguageModel(self.model, self.tokenizer, template=template)
        for prompt in self.config.sample_prompts:
            request = GenerationConfig(
                max_new_tokens=self.config.sample_tokens, top_p=0.9, seed=self.config.seed, overflow="slide"
            )
            asked = [Message("user", prompt)] if template and prompt else prompt or None
            begun = f"{prompt} → " if template and prompt else prompt
            text = lm.complete(asked, request).completions[0].text
            self.log.add("sample", self.progress.step, prompt=begun, text=text)
            self.reporter.sample(self.progress.step, begun, text)
        self.log.write_samples()
        self.pace.paused("sample", self.pace.seconds - began, self._sample_every())

    def save(self) -> None:
        """Write a checkpoint, then remove those that need not be kept.

        Raises:
            DivergenceError: when a weight is not finite; nothing is written then.
        """
        began, progress = self.pace.seconds, self.progress
        if not all(bool(p.isfinite().all()) for p in self.optimizer.named.values()):
            self._diverged("a weight is not finite")
        progress.seconds = self.pace.seconds
        self._save(
            native.step_folder(self.run, progress.step),
            {
                "progress": dataclasses.asdict(progress) | {"best_loss": _finite_or_none(progress.best_loss)},
                "settings": dataclasses.asdict(self.config),
                "data": self.objective.data_hash,
                "template": self.objective.template,
                "versions": runtime.versions(),
            },
            self.optimizer.state_tensors(),
        )
        native.prune(self.run, self.config.keep_checkpoints, progress.best_step)
        self.pace.paused("save", self.pace.seconds - began, self.config.checkpoint_every)

    def _choose_total(self) -> bool:
        """Decide how many steps there are, once that is possible; returns whether it was decided by the clock."""
        progress, config = self.progress, self.config
        if config.minutes is None:
            progress.total = config.steps or STEPS
            return False
        total = self.pace.plan(config.minutes, progress.step, progress.total)
        if total is None:
            return False
        progress.total, progress.predicted_seconds = total, self.pace.predict(progress.step, total)
        self.reporter.planned(total, self.pace.step_seconds(), config.minutes)
        return True

    def _due(self, every: int | None) -> bool:
        """Whether something that happens `every` steps (None: `EVENTS` times in the run) happens now."""
        step, total = self.progress.step, self.progress.total
        if every is None:
            every = math.ceil(total / EVENTS) if total is not None else 0
        return every > 0 and (step % every == 0 or step == total)

    def _sample_every(self) -> int | None:
        asked = self.config.sample_every
        return self.config.eval_every if asked is None else asked

    def _learning_rate_factor(self) -> float:
        config, total = self.config, self.progress.total
        warm_up = config.warmup_steps if total is None else warmup_length(config.warmup_steps, total)
        return learning_rate_factor(self.progress.step, total, warm_up, config.schedule, config.min_lr_ratio)

    def _clip_gradients(self, loss: float) -> float:
        """Shorten the gradient to the limit; returns its length before that."""
        gradients = [p.grad for p in self.optimizer.named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            self._diverged(f"the loss is {loss:.4g} and the length of the gradient {float(norm):.4g}")
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.optimizer.named.values(), self.config.max_grad_norm, norm)
        return float(norm)

    def _diverged(self, what: str) -> NoReturn:
        """Name the first tensor that is not finite; the checkpoints are as they were."""

        def bad(tensor: torch.Tensor | None) -> bool:
            return tensor is not None and not bool(tensor.isfinite().all())

        named = dict(self.model.named_parameters())
        where = next((f"the parameter {n}" for n, p in named.items() if bad(p)), None)
        where = where or next((f"the gradient of {n}" for n, p in named.items() if bad(p.grad)), "the loss alone")
        self.log.close()
        saved = native.steps(self.run)
        last = f"The last good checkpoint is {native.step_folder(self.run, saved[-1])}." if saved else ""
        raise DivergenceError(
            f"At step {self.progress.step} {what}; the first thing that is not finite is {where}. {last}".strip(),
            "Train again with a lower --learning-rate, a longer --warmup-steps or "
            f"{'a lower --max-grad-norm' if self.config.max_grad_norm else '--max-grad-norm 1'}."
            if self.progress.step
            else "No step was taken yet, so the model that training begins with is at fault: `handloom verify` checks "
            "one. Use another, or --precision fp32 if it is not.",
        )

    def _record_step(self, loss: float, norm: float, factor: float, tokens: int) -> None:
        progress = self.progress
        self.log.add(
            "train",
            progress.step,
            loss=loss,
            gradient_norm=norm,
            learning_rate=self.optimizer.learning_rate * factor,
            tokens=progress.tokens,
            seconds=progress.seconds,
        )
        speed = tokens / self.pace.step_seconds() if self.pace.measured else None
        self.reporter.step(progress.step, progress.total, loss, speed, self.pace)
        self._record_lost_output()

    def _record_lost_output(self) -> None:
        """Write down, once, that standard output or error could not show something."""
        for lost in screen.losses():
            if lost not in self._told_lost:
                self._told_lost.add(lost)
                self.log.add("screen", self.progress.step, lost=lost)

    def _recent_loss(self) -> float | None:
        """Mean training loss over the last twentieth of the steps so far."""
        losses = [record["loss"] for record in self.log.of_kind("train")]
        last = losses[-max(10, len(losses) // 20) :]
        return sum(last) / len(last) if last else None


def parts(batch: Batch, number: int) -> Iterator[Batch]:
    """A batch in so many parts of equal size."""
    for tensors in zip(*(tensor.chunk(number) for tensor in batch.values()), strict=True):
        yield dict(zip(batch, tensors, strict=True))


def is_overfitting(training: float | None, validation: float, best: float) -> bool:
    """Whether training and validation loss have parted.

    That is: validation is past its best (by more than half a percent), and training lies more than
    a tenth below it.
    """
    return training is not None and validation > 1.005 * best and training < 0.9 * validation


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
