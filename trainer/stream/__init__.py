"""The stream: a finished dataset as batches of tensors. `Stream` is its face; the modules are its parts.

plan (step → batch), turns (whose turn it is), lanes (which row is where), reader, columns and pool (row groups on
threads), feed and rows (what is in memory), batches and documents (tensors), inspect (for people).
"""

from trainer.stream.batches import IGNORED_LABEL, KINDS, Batch
from trainer.stream.reader import Fault
from trainer.stream.stream import Stream
from trainer.stream.turns import ORDERS, Order

__all__ = ["IGNORED_LABEL", "KINDS", "ORDERS", "Batch", "Fault", "Order", "Stream"]
