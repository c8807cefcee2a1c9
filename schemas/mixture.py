"""How a job's budget is found and dealt to its sources. What follows from it is in `transforms.mixture`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Count, Frozen


class Mixture(Frozen):
    """How the sources' shares of the tokens are found."""

    policy: Literal["weights", "proportional", "temperature", "unimax", "epochs"] = "weights"
    """`weights`: the sources' weights, normalised. `proportional`: the tokens available. `temperature`: these to the
    power 1/temperature. `unimax`: as even as `max_epochs` passes over each source allow. `epochs`: the
    sources' `epochs`. Under `weights` the sources' `epochs`, and under `epochs` their `weight` and the budget's
    `tokens` are only checked: `shardmill plan` says which cannot hold."""
    temperature: Annotated[float, Field(ge=0.01)] | None = None
    """Of `policy: temperature`; 1 is proportional, a large one makes shares equal."""
    max_tokens: Count | None = None
    """Of `policy: temperature`: a larger source counts as one of so many tokens."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """Of `policy: unimax`: most passes over any source."""
    on_shortfall: Literal["error", "shrink", "rebalance"] = "error"
    """When `max_epochs` binds: stop, make the budget smaller, or move the shares to other sources."""

    @model_validator(mode="after")
    def _of_this_policy(self) -> Mixture:
        needs = {"temperature": ("temperature", 3), "unimax": ("max_epochs", 4)}
        key, example = needs.get(self.policy, ("", 0))
        if key and getattr(self, key) is None:
            raise ValueError(f"policy: {self.policy} needs `{key}`; add it, such as `{key}: {example}`")
        for key, policy in (("temperature",) * 2, ("max_tokens", "temperature"), ("max_epochs", "unimax")):
            if getattr(self, key) is not None and self.policy != policy:
                raise ValueError(f"`{key}` is for policy: {policy}, got policy: {self.policy}")
        return self


class Budget(Frozen):
    """How many tokens of the train split the dataset holds, corpus tokens without special tokens."""

    tokens: Count | None = None
    """Absolute number. Under `mixture: {policy: epochs}` not used, but checked against the passes."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Multiple of the tokens available in all sources together."""

    @model_validator(mode="after")
    def _one_of(self) -> Budget:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError(
                "give exactly one of `tokens` and `epochs`: so many tokens, or so many passes over all sources"
            )
        return self
