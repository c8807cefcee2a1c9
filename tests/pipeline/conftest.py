"""Fixtures of the pipeline tests."""

from small_jobs import corpus, job, shardmill

__all__ = ["corpus", "job", "shardmill"]
