"""The only training loop: step, validate, sample, save; it can stop and resume at any step.

It knows no task (`objective`), no update rule (`optimizer`), no file formats (`checkpoints`), no screen (`progress`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from handloom import runtime, screen
from handloom.checkpoints import native
from handloom.errors import HandloomError
from handloom.inference.generation_config import GenerationConfig
from handloom.inference.language_model import LanguageModel
from handloom.tokenizer.chat import Message
from handloom.training.config import STEPS
from handloom.training.metrics_log import METRICS, MetricsLogger
from handloom.training.objective import EvalResult, TrainStep, micro_batches
from handloom.training.optimizer import Optimizer
from handloom.training.progress import Reporter
from handloom.training.setup import TrainingSetup
from handloom.training.signals import StopRequest
from handloom.training.time_budget import StepTimer


class DivergenceError(HandloomError):
    """The loss, a gradient or a weight is not finite."""


@dataclass
class Progress:
    """The state of a run besides weights and optimizer; saved in every checkpoint."""

    step: int = 0
    total: int | None = None
    """Steps of the whole run; None while they are still being measured."""
    tokens: int = 0
    seconds: float = 0.0
    """Computing time of the whole run until now, validations, samples and saving included."""
    step_seconds: float = 0.0
    """Time in optimizer steps alone."""
    best_step: int | None = None
    best_loss: float = math.inf
    predicted_seconds: float | None = None
    """The predicted time of the whole run, when its steps were chosen last."""


class Trainer:
    """Trains what a run's `TrainingSetup` holds, from `progress` on; `on_save` is called after each checkpoint."""

    def __init__(
        self,
        run: Path,
        setup: TrainingSetup,
        progress: Progress,
        reporter: Reporter,
        *,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.setup, self.config, self.progress, self.reporter = run, setup, setup.config, progress, reporter
        self.model, self.objective, self._on_save = setup.model, setup.objective, on_save
        config = self.config
        self.train_step = TrainStep(setup.model, setup.objective, config.precision, setup.cache)
        self.optimizer = Optimizer(
            setup.model,
            config.optimizer,
            config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            muon_dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
            embedding_lr_ratio=config.embedding_lr_ratio,
        )
        self.last_result: EvalResult | None = None
        self.log = MetricsLogger(run, progress.step or -1, self.objective.unit, config.tensorboard)
        if self.log.damaged:
            reporter.warning(
                f"Lines of {METRICS} could not be read and are left out; the original file is kept as "
                f"{self.log.damaged}."
            )
        self.timer = StepTimer(progress.seconds)
        self._recorded_losses: set[str] = set()

    def train(self, request: StopRequest, stop_after: int | None = None) -> bool:
        """Train until the end, a stop request, or step `stop_after`; returns whether the end was reached.

        Raises DivergenceError at the first loss or gradient that is not finite; nothing was updated with it.
        """
        progress, config = self.progress, self.config
        last = math.inf if stop_after is None else stop_after
        with self.timer.clock.beating(), runtime.keeping_freed_memory(self.setup.fit_memory(self.reporter)):
            if progress.step == 0 and not self.log.records:
                self.validate()
                self.sample()
                self.save()
            self._choose_total()
            while not (request.stop or progress.step == progress.total or progress.step >= last):
                if not self.step(request):
                    break
                chosen = self._choose_total()
                if self._due(config.eval_every):
                    self.validate()
                if self._due(self._sample_every):
                    self.sample()
                if chosen or self._due(config.checkpoint_every) or progress.best_step == progress.step:
                    self.save()
            if not native.step_folder(self.run, progress.step).exists():
                self.save()
            self._record_lost_output()
            self.log.close()
        return progress.step == progress.total

    def step(self, request: StopRequest) -> bool:
        """One optimizer step over `batch_size` sequences; returns whether it was completed.

        The gradient is that of the mean over all targets of the batch, however many micro-batches it is computed in.
        Stopped between two of them, the step changes nothing: a resumed run repeats it with the same numbers.
        """
        began, config, progress = self.timer.seconds, self.config, self.progress
        batch = self.objective.batch(progress.step)
        num_targets, tokens = self.objective.num_targets(batch), batch["inputs"].numel()
        loss = 0.0
        self.train_step.train()
        self.optimizer.zero_grad()
        for number, micro_batch in enumerate(micro_batches(batch, config.accumulation)):
            if request.stop:
                return False
            reseed(config.seed, progress.step, number)
            summed = self.train_step(micro_batch)
            (summed / num_targets).backward()
            loss += summed.item() / num_targets
        norm = self._clip_gradients(loss)
        schedule = (config.warmup_steps, config.schedule, config.min_lr_ratio)
        factor = learning_rate_factor(progress.step, progress.total, *schedule)
        self.optimizer.step(factor)
        progress.step += 1
        progress.tokens += tokens
        progress.seconds = self.timer.seconds
        self.timer.add_step(progress.seconds - began)
        progress.step_seconds += progress.seconds - began
        values = {"loss": loss, "gradient_norm": norm, "learning_rate": self.optimizer.learning_rate * factor}
        self.log.add("train", progress.step, **values, tokens=progress.tokens, seconds=progress.seconds)
        speed = tokens / self.timer.step_seconds() if self.timer.measured else None
        self.reporter.step(progress.step, progress.total, loss, speed=speed, timer=self.timer)
        self._record_lost_output()
        return True

    def validate(self) -> EvalResult:
        """The loss on all held-out data, in float32, as anyone who loads the model computes it."""
        began, progress = self.timer.seconds, self.progress
        result = self.train_step.evaluate()
        if not math.isfinite(result.loss):
            self._diverged("the validation loss is not finite")
        self.log.add("validation", progress.step, loss=result.loss, **result.metrics, seconds=self.timer.seconds)
        if result.loss < progress.best_loss:
            progress.best_step, progress.best_loss = progress.step, result.loss
        self.last_result, training_loss = result, self.log.recent_loss()
        self.reporter.validation(progress.step, result, training_loss)
        if is_overfitting(training_loss, result.loss, progress.best_loss):
            self.reporter.warning(
                f"Training loss {training_loss:.3f} and validation loss {result.loss:.3f} diverge: the model is "
                f"overfitting. The best checkpoint, of step {progress.best_step}, is kept. "
                "More text, dropout, or fewer steps would help."
            )
        self.timer.add_pause("validation", self.timer.seconds - began, self.config.eval_every)
        return result

    def sample(self) -> None:
        """Generate a text for each prompt, and record it."""
        if self._sample_every == 0:
            return
        began, template, config = self.timer.seconds, self.objective.chat_template, self.config
        lm = LanguageModel(self.model, self.setup.tokenizer, template=template)
        request = GenerationConfig(max_new_tokens=config.sample_tokens, top_p=0.9, seed=config.seed, overflow="slide")
        for prompt in config.sample_prompts:
            as_chat = template is not None and prompt != ""
            text = lm.complete([Message("user", prompt)] if as_chat else prompt or None, request).completions[0].text
            begun = f"{prompt} → " if as_chat else prompt
            self.log.add("sample", self.progress.step, prompt=begun, text=text)
            self.reporter.sample(self.progress.step, begun, text)
        self.log.write_samples()
        self.timer.add_pause("sample", self.timer.seconds - began, self._sample_every)

    def save(self) -> None:
        """Write a checkpoint, then remove those that need not be kept.

        Raises DivergenceError when a weight is not finite; nothing is written then.
        """
        began, progress = self.timer.seconds, self.progress
        if not all(bool(p.isfinite().all()) for p in self.optimizer.parameters.values()):
            self._diverged("a weight is not finite")
        progress.seconds = self.timer.seconds
        best_loss = progress.best_loss if math.isfinite(progress.best_loss) else None
        state = {
            "progress": dataclasses.asdict(progress) | {"best_loss": best_loss},
            "settings": dataclasses.asdict(self.config),
            "data": self.objective.data_hash,
            "template": self.objective.chat_template,
            "versions": runtime.versions(),
        }
        self.setup.save(native.step_folder(self.run, progress.step), state, self.optimizer.state_tensors())
        self._on_save()
        native.prune(self.run, self.config.keep_checkpoints, progress.best_step)
        self.timer.add_pause("save", self.timer.seconds - began, self.config.checkpoint_every)

    def _choose_total(self) -> bool:
        """Decide the number of steps, once that is possible; returns whether the clock decided it now."""
        progress, minutes = self.progress, self.config.minutes
        if minutes is None:
            progress.total = self.config.steps or STEPS
            return False
        total = self.timer.plan(minutes, progress.step, progress.total)
        if total is None:
            return False
        progress.total, progress.predicted_seconds = total, self.timer.predict(progress.step, total)
        self.reporter.planned(total, self.timer.step_seconds(), minutes)
        return True

    def _due(self, every: int | None) -> bool:
        """Whether an event that comes `every` so many steps (None: `timer.events` times in the run) comes now."""
        step, total = self.progress.step, self.progress.total
        if every is None:
            every = math.ceil(total / self.timer.events) if total is not None else 0
        return every > 0 and (step % every == 0 or step == total)

    @property
    def _sample_every(self) -> int | None:
        return self.config.eval_every if self.config.sample_every is None else self.config.sample_every

    def _clip_gradients(self, loss: float) -> float:
        """Scale the gradient down to the maximum norm; returns its norm before."""
        parameters = self.optimizer.parameters.values()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            self._diverged(f"the loss is {loss:.4g} and the gradient norm {float(norm):.4g}")
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        return float(norm)

    def _diverged(self, what: str) -> NoReturn:
        """Raise DivergenceError with the first tensor that is not finite; the checkpoints stay as they are."""

        def bad(tensor: torch.Tensor | None) -> bool:
            return tensor is not None and not bool(tensor.isfinite().all())

        named = dict(self.model.named_parameters())
        where = next((f"the parameter {n}" for n, p in named.items() if bad(p)), None)
        where = where or next((f"the gradient of {n}" for n, p in named.items() if bad(p.grad)), "the loss alone")
        self.log.close()
        saved = native.steps(self.run)
        last = f"The last good checkpoint is {native.step_folder(self.run, saved[-1])}." if saved else ""
        clipping = "lower `max_grad_norm`" if self.config.max_grad_norm else "set `max_grad_norm=1`"
        raise DivergenceError(
            f"At step {self.progress.step} {what}; the first thing that is not finite is {where}. {last}".strip(),
            f"Train again: lower `learning_rate`, raise `warmup_steps`, or {clipping}."
            if self.progress.step
            else "No step was taken yet, so the model that training begins with is the cause; `handloom verify` checks "
            "one. Use another, or `precision=fp32` if it is not.",
        )

    def _record_lost_output(self) -> None:
        """Record, once each, that standard output or error could not show something."""
        for lost in screen.losses():
            if lost not in self._recorded_losses:
                self._recorded_losses.add(lost)
                self.log.add("screen", self.progress.step, lost=lost)


def learning_rate_factor(step: int, total: int | None, warmup: int, schedule: str, min_lr_ratio: float = 0.0) -> float:
    """The learning rate schedule: the fraction (0 to 1) of the peak learning rate at `step`, counted from 0.

    It rises linearly over the warm-up, at most a fifth of the `total` steps (None: still being measured), then falls to
    `min_lr_ratio` linearly or along half a cosine (Loshchilov & Hutter 2017, "SGDR"), or stays constant.
    """
    warmup = warmup if total is None else max(1, min(warmup, total // 5))
    if step < warmup or total is None:
        return min(1.0, (step + 1) / warmup)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    remaining = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return min_lr_ratio + (1 - min_lr_ratio) * remaining


def is_overfitting(training: float | None, validation: float, best: float) -> bool:
    """Whether validation is past its best by more than half a percent, and training more than a tenth below it."""
    return training is not None and validation > 1.005 * best and training < 0.9 * validation


def reseed(*position: int) -> None:
    """Seed torch's generators by a position, as (seed, step, micro-step): no generator's state has to be saved."""
    digest = hashlib.sha256(" ".join(map(str, position)).encode("ascii")).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
