"""Speed of training from the stream beside the same batches built in memory beforehand, and their losses.

    python tests/benchmarks/train_speed.py DATASET [--recipe bert-base] [--steps 100] [--tokens-per-batch 64K]

On a GPU: bf16 autocast, and MFU against the device's peak. On a processor the same with the tiny recipe, in fp32.
Both runs start from the same weights and take the same batches in the same order, so their losses must agree; what
differs is where the time goes. The first third of the steps warms up and is not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterable

import torch

from schemas.counts import parse_count
from schemas.manifest import read_manifest
from schemas.storage import Location
from trainer.flops import FlopCounter
from trainer.meter import peak_flops
from trainer.models import Recipe, choose_recipe
from trainer.step import Losses, backward, decay_groups
from trainer.stream import Batch, Stream
from trainer.world import World


def train(
    recipe: Recipe, stream: Stream, batches: Iterable[Batch], steps: int, world: World, compiled: bool
) -> dict[str, float]:
    """Train so many steps; returns rates and the mean loss of the last tenth."""
    torch.manual_seed(0)
    model = recipe.build(stream.manifest, stream.longest_row).to(world.device).train()
    with torch.device("meta"):
        counter = FlopCounter(recipe.family, recipe.build(stream.manifest, stream.longest_row))
    module = Losses(recipe.family, model, bf16=world.device.type == "cuda", compiled=compiled)
    optimizer = torch.optim.AdamW(decay_groups(module, 0.01), lr=recipe.learning_rate, fused=True)
    names, warm = list(recipe.family.part_weights), max(1, steps // 3)
    losses, waited_seconds, flops, tokens, began = [], 0.0, 0.0, 0, 0.0
    iterator = iter(batches)
    for step in range(steps):
        if step == warm:
            synchronize(world.device)
            waited_seconds, flops, tokens, began = 0.0, 0.0, 0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(iterator)
        waited_seconds += time.perf_counter() - asked
        rows = recipe.family.micro_batch(batch)
        counts = torch.tensor([len(rows.labels[n].ids) if n in rows.labels else 0 for n in names])
        pieces, sources = [rows.to(world.device)], len(stream.manifest.sources)
        sums, _ = backward(module, recipe.family, pieces, counts, world, sources)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append((sums, counts))
        flops += counter.of(rows)
        tokens += int((batch["attention_mask"].sum(1) * batch["row_weight"]).sum())
    synchronize(world.device)
    seconds = time.perf_counter() - began
    ended = [sums.cpu() / counts.clamp(min=1) for sums, counts in losses[-max(1, steps // 10) :]]
    peak = peak_flops(world.device, None)
    weights = torch.tensor(list(recipe.family.part_weights.values()))
    return {
        "tokens_per_second": tokens / seconds,
        "step_milliseconds": 1000 * seconds / (steps - warm),
        "data_wait_share": waited_seconds / seconds,
        "mfu": flops / seconds / peak if peak else float("nan"),
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if world.device.type == "cuda" else float("nan"),
        "last_loss": float((torch.stack(ended).mean(0) * weights).sum()),
    }


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU is at."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """Print both runs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--recipe")
    parser.add_argument("--steps", type=int, default=60, help="30 or more")
    parser.add_argument("--tokens-per-batch", type=parse_count, default=None)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--together", action="store_true", help="packed documents are not kept apart")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    world = World(rank=0, size=1, device=torch.device("cuda" if cuda else "cpu"))
    tokens_per_batch = options.tokens_per_batch or (65536 if cuda else 4096)

    def stream() -> Stream:
        return Stream(options.dataset, tokens_per_batch=tokens_per_batch, documents=apart, sources=True)

    recipe = choose_recipe(options.recipe, read_manifest(Location.of(options.dataset)).objective)
    apart = recipe.family.packed and not options.together
    about = stream()
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads of a processor"
    print(f"{recipe.name} on {device}, {options.steps} steps of {tokens_per_batch:,} tokens")
    with contextlib.closing(iter(stream())) as batches:
        built = list(itertools.islice(batches, options.steps))
    found = {}
    for name in ("memory", "stream"):
        found[name] = train(
            recipe, about, built if name == "memory" else stream(), options.steps, world, options.compile
        )
        print(f"{name:7}" + "  ".join(f"{key} {value:.4g}" for key, value in found[name].items()), flush=True)
    ratio = found["stream"]["tokens_per_second"] / found["memory"]["tokens_per_second"]
    difference = found["stream"]["last_loss"] - found["memory"]["last_loss"]
    print(f"stream/memory {ratio:.3f} tokens/s; losses differ by {difference:+.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
