"""Fixtures of the pipeline tests."""

from small_jobs import corpus, job, shardmill, system_tmp

__all__ = ["corpus", "job", "shardmill", "system_tmp"]
