"""Which runner is asked for, what it needs to be told differently, and which options it knows. Runs nothing."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass

from schemas.errors import RequestError

_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_LOCAL = {"fnapi", "direct", "switchingdirect", "bundlebaseddirect"}


class HandedOver(Exception):  # noqa: N818  nothing has failed
    """A step's graph was written for a template launcher, which runs it after this process has ended."""

    def __init__(self, label: str) -> None:
        super().__init__(
            f"The graph of {label} was handed to the template launcher. When that job is done, launch the same "
            "command again for the next step, or run it without a template to finish"
        )


@dataclass(frozen=True)
class Runner:
    """A runner by the name that `--runner` gives; Beam takes names in any case, with or without `Runner`.

    >>> Runner("dask").beam_name
    'apache_beam.runners.dask.dask_runner.DaskRunner'
    """

    name: str

    @property
    def _short(self) -> str:
        return self.name.rsplit(".", 1)[-1].lower().removesuffix("runner")

    @property
    def is_local(self) -> bool:
        """True where the work happens on this machine."""
        return self._short in _LOCAL

    @property
    def is_default(self) -> bool:
        """True for the local runner that is used where none is named."""
        return self._short == "fnapi"

    @property
    def is_dask(self) -> bool:
        """True for Dask, where an element is never moved: a Reshuffle does nothing."""
        return self._short == "dask"

    @property
    def beam_name(self) -> str:
        """What Beam finds it by; Beam does not know Dask's short name."""
        return _DASK if self.is_dask else self.name

    def load(self) -> None:
        """Import a runner that is named by its class, so that its options exist.

        Raises:
          RequestError: there is no such module, or what it needs is not installed.
        """
        if "." not in self.beam_name:
            return
        module = self.beam_name.rsplit(".", 1)[0]
        try:
            importlib.import_module(module)
            if self.is_dask:
                importlib.import_module("distributed")
        except ImportError as error:
            raise RequestError(
                f"The runner {self.name!r} cannot be loaded",
                where="--runner",
                got=str(error),
                remedy="Install Dask with `pip install distributed`" if self.is_dask else "Mend the runner's name",
            ) from error

    def options(self) -> list[str]:
        """Every option that some part of Beam, or this runner, knows; imports Beam."""
        from apache_beam.options.pipeline_options import PipelineOptions

        self.load()
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
        for kind in PipelineOptions.__subclasses__():
            if hasattr(kind, "_add_argparse_args"):
                kind._add_argparse_args(parser)
        return sorted(option for action in parser._actions for option in action.option_strings)
