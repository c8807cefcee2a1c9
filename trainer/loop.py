"""The training loop: a stream, a model, AdamW and a schedule; metrics, evaluation, checkpoints and a saved model.

Reads from top to bottom, and is not a framework: to train something else, take `Stream` into a loop of your own.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from torch import nn

from schemas.errors import ShardmillError
from schemas.manifest import read_manifest
from schemas.storage import Location
from trainer.checkpoints import Checkpoints
from trainer.evaluation import Evaluation, evaluate
from trainer.flops import FlopCounter
from trainer.meter import Meter, peak_flops
from trainer.metrics_log import MetricsLog
from trainer.models import Recipe, choose_recipe
from trainer.report import header, next_command, progress_bar, summary
from trainer.run import Run
from trainer.samples import samples
from trainer.schedules import learning_rate_factor, noam_peak
from trainer.settings import TrainResult, TrainSettings
from trainer.signals import Stop, stopped_by_signals
from trainer.step import Losses, allow_graphs, backward, decay_groups, micro_batches
from trainer.stream import Stream
from trainer.tokenizer import check_tokenizer
from trainer.world import World, joined, share

__all__ = ["TrainResult", "TrainSettings", "train"]


def train(settings: TrainSettings, *, console: Console | None = None) -> TrainResult:
    """Train a model on a dataset and save it; under torchrun, together with the other processes.

    Prints a header, a line every `log_every_steps` steps, and a summary. A run that was stopped goes on from its
    newest checkpoint when it is started again with the same settings.

    Raises:
      RequestError: there is no such dataset, it does not fit the recipe or the batch, an option is out of range,
        another run is in `out`, or the training diverges.
      DataError: a shard or a checkpoint is missing or damaged.
    """
    settings.check()
    with joined(settings.device) as world, Run.at(settings.out) as run:
        return _Training(settings, world, console or Console(), run).run()


class _Training:
    """What the parts of a run share."""

    def __init__(self, settings: TrainSettings, world: World, console: Console, run: Run) -> None:
        self.settings, self.world, self.run_directory = settings, world, run
        self.console = console if world.leads else Console(quiet=True)
        self.recipe: Recipe = choose_recipe(settings.recipe, read_manifest(Location.of(settings.dataset)).objective)
        self.family = self.recipe.family
        self.stream = self._stream("train", settings.seed)
        check_tokenizer(self.stream.dataset, self.stream.manifest)
        self.steps = settings.steps or max(1, round(settings.epochs * self.stream.plan.steps_per_epoch))
        identity = settings.identity(self.stream.plan.digest, self.recipe.name, self.steps)
        torch.manual_seed(settings.seed)
        self.model = self.recipe.build(self.stream.manifest, self.stream.longest_row, settings.positions)
        self.model.to(world.device).train()
        self._start_run(identity)
        self.parts = [p for p in self.family.part_weights if p in self._parts_of_dataset()]

    def _stream(self, split: str, seed: int, **options: Any) -> Stream:
        s = self.settings
        apart = self.family.packed if s.documents == "auto" else s.documents == "apart"
        return Stream(
            s.dataset,
            split=split,
            tokens_per_batch=s.tokens_per_batch,
            seed=seed,
            rank=self.world.rank,
            world_size=self.world.size,
            order=s.order,
            documents=apart,
            sources=True,
            on_error=s.on_error,
            checksums=s.checksums,
            **options,
        )

    def _start_run(self, identity: dict[str, Any]) -> None:
        """The leading process makes the directory; what it finds wrong, all of them say."""
        error: ShardmillError | None = None
        if self.world.leads:
            try:
                self.run_directory.start(identity, overwrite=self.settings.overwrite)
            except ShardmillError as found:
                error = found
        error = self.world.tell(error)
        if error is not None:
            raise error

    def _parts_of_dataset(self) -> set[str]:
        pairs = self.stream.objective == "sentence_pair"
        return {p for p in self.family.part_weights if p != "pair" or pairs}

    def run(self) -> TrainResult:
        """Train to the end, or to a signal."""
        s, world, run = self.settings, self.world, self.run_directory
        bf16 = s.precision == "bf16" or (s.precision == "auto" and world.device.type == "cuda")
        if s.compile or world.device.type == "cuda":  # the model or FlexAttention
            allow_graphs(self.family.backbones(self.model), len(self.stream.plan.buckets))
        losses = Losses(self.family, self.model, smoothing=s.label_smoothing, bf16=bf16, compiled=s.compile)
        module = share(losses, world, s.parallel)
        weight_decay = self.recipe.weight_decay if s.weight_decay is None else s.weight_decay
        optimizer = torch.optim.AdamW(decay_groups(module, weight_decay), lr=0.0, betas=self.recipe.betas, fused=True)
        checkpoints = Checkpoints(run.checkpoints, world, keep=s.keep_checkpoints)
        begun, tokens = self._resume(checkpoints, module, optimizer)
        log = MetricsLog(run, leads=world.leads, tensorboard=s.tensorboard, begun=begun)
        parameters = sum(p.numel() for p in self.model.parameters())
        self.console.print(
            header(self.stream, self.recipe.name, parameters, self.steps, world, begun), highlight=False
        )
        peak = peak_flops(world.device, s.peak_tflops)
        flops = self._flop_counter() if peak else None
        meter = Meter(
            self.family,
            world,
            parts=self.parts,
            sources=[x.name for x in self.stream.manifest.sources],
            steps=self.steps,
            tokens=tokens,
            peak=peak,
            log=log.add,
            show=lambda line: self.console.print(line, highlight=False),
        )
        stop = Stop()
        with (
            stopped_by_signals(stop),
            progress_bar(self.console) as progress,
            contextlib.closing(iter(self.stream)) as batches,
        ):
            bar = progress.add_task("", total=self.steps, completed=begun)
            for step in range(begun + 1, self.steps + 1):
                stopping = self._step(step, batches, module, optimizer, meter, flops, stop)
                progress.advance(bar)
                if step < self.steps and (stopping or step % s.checkpoint_every_steps == 0):
                    state = {"step": step, "tokens": meter.tokens, "stream": self.stream.state_dict()}
                    log.publish()  # first: what is done after a checkpoint is done again from there
                    checkpoints.save(step, module, optimizer, state)
                if stopping and step < self.steps:
                    self.console.print(f"Stopped by a signal after step {step:,}, at a checkpoint.", highlight=False)
                    return self._result(step, meter, None, stopped_by=stop.number or signal.SIGTERM)
                if s.eval_every_steps and step % s.eval_every_steps == 0 and step < self.steps:
                    self._evaluate(step, module, log)
        score = self._evaluate(self.steps, module, log)
        log.publish()
        log.close()
        self._save(module)
        result = self._result(self.steps, meter, score)
        self.console.print(summary(result), highlight=False)
        # Not wrapped: this line is there to be copied.
        self.console.print(f"  {next_command(result)}", highlight=False, markup=False, soft_wrap=True)
        return result

    def _step(
        self,
        step: int,
        batches: Iterator[Any],
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        meter: Meter,
        flops: FlopCounter | None,
        stop: Stop,
    ) -> bool:
        """One optimiser step; true if a process has been asked to stop."""
        s, world = self.settings, self.world
        asked = time.perf_counter()
        batch = next(batches)
        waited_seconds = time.perf_counter() - asked
        pieces = list(micro_batches(self.family, batch, s.accumulate))
        names = list(self.family.part_weights)
        labels = [sum(len(p.labels[n].ids) for p in pieces if n in p.labels) for n in names]
        tokens = int((batch["attention_mask"].sum(1) * batch["row_weight"]).sum())
        # One exchange a step: labels of each part, tokens, and whether anybody was asked to stop. float64 is exact.
        shared = world.sum(torch.tensor([*labels, tokens, stop.number > 0], dtype=torch.float64))
        sums, by_source = backward(
            module,
            self.family,
            [p.to(world.device) for p in pieces],
            shared[: len(names)],
            world,
            len(self.stream.manifest.sources),
        )
        grad_norm = nn.utils.clip_grad_norm_(module.parameters(), s.max_grad_norm)
        learning_rate = self._learning_rate(step - 1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.add(
            sums,
            by_source,
            shared[: len(names)],
            tokens=int(shared[-2]),
            positions=batch["input_ids"].numel() * world.size,
            flops=sum(flops.of(p) for p in pieces) if flops else 0.0,
            waited_seconds=waited_seconds,
        )
        if step % s.log_every_steps == 0 or step == self.steps:
            norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm
            meter.report(step, learning_rate=learning_rate, grad_norm=norm, skipped_rows=self.stream.skipped_rows)
        return bool(shared[-1] > 0)

    def _flop_counter(self) -> FlopCounter:
        with torch.device("meta"):
            model = self.recipe.build(self.stream.manifest, self.stream.longest_row, self.settings.positions)
        return FlopCounter(self.family, model)

    def _learning_rate(self, step: int) -> float:
        """At a step counted from 0."""
        s = self.settings
        warmup_steps = max(1, round(s.warmup_share * self.steps))
        peak = self.recipe.learning_rate if s.learning_rate is None else s.learning_rate
        if s.noam and s.learning_rate is None:
            peak = noam_peak(self.recipe.size.hidden, warmup_steps)
        return peak * learning_rate_factor(
            "inverse_sqrt" if s.noam else s.schedule or self.recipe.schedule,
            step,
            steps=self.steps,
            warmup_steps=warmup_steps,
            decay_steps=round(s.decay_share * self.steps),
        )

    def _resume(
        self, checkpoints: Checkpoints, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, int]:
        """(steps done, tokens seen) of the newest checkpoint, which everything is brought to; (0, 0) without one."""
        place = self.world.tell(checkpoints.newest() if self.world.leads else None)
        state: dict[str, Any] = {"step": 0, "tokens": 0}
        if place is not None:
            state = checkpoints.load(place, module, optimizer)
            self.stream.load_state_dict(state["stream"])
        if self.world.leads:
            self.run_directory.rewind(state["step"])
        return state["step"], state["tokens"]

    def _evaluate(self, step: int, module: nn.Module, log: MetricsLog) -> Evaluation | None:
        """Score the model on the validation split: always the same batches, whatever the seed of the run."""
        s = self.settings
        if "validation" not in self.stream.splits or s.eval_batches == 0:
            return None
        stream = self._stream("validation", 0, epochs=1)
        with torch.random.fork_rng(devices=[]):  # dropout is off, and nothing else may move the run's numbers
            score = evaluate(module, self.family, stream, batches=s.eval_batches, world=self.world, parts=self.parts)
            if self.world.size == 1 or s.parallel == "ddp":
                stream.load_state_dict(stream.state_at(0))
                text = samples(self.family, self.model, stream, self.world.device)
                if self.world.leads:
                    self.run_directory.add_samples(f"step {step}\n{text}\n")
        if score is not None:
            log.add({"step": step, **score.metrics()})
        if step < self.steps:
            log.publish()
        return score

    def _save(self, module: nn.Module) -> None:
        """Save the model for `from_pretrained`; a sharded one is gathered in the leading process first."""
        model = self.model
        if self.world.size > 1 and self.settings.parallel == "fsdp":
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            whole = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
            model = self.recipe.build(self.stream.manifest, self.stream.longest_row, self.settings.positions)
            if self.world.leads:
                model.load_state_dict({k.removeprefix("model."): v for k, v in whole.items()})
        if self.world.leads:
            self.run_directory.save(self.family.saved(model), self.stream.dataset, self.stream.manifest.tokenizer)
        self.world.wait()

    def _result(self, step: int, meter: Meter, score: Evaluation | None, *, stopped_by: int = 0) -> TrainResult:
        losses = [line["loss"] for line in self.run_directory.lines() if "loss" in line] or [float("nan")]
        tenth = max(1, len(losses) // 10)
        return TrainResult(
            recipe=self.recipe.name,
            steps=step,
            tokens=meter.tokens,
            seconds=meter.seconds,
            first_loss=sum(losses[:tenth]) / tenth,
            last_loss=sum(losses[-tenth:]) / tenth,
            validation=score,
            model_directory=str(self.run_directory.final),
            finished=not stopped_by,
            stopped_by=int(stopped_by),
        )
