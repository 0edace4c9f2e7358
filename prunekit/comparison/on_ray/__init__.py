"""The launcher that makes every cell a Ray task, on this machine or on many."""

from .cluster import Cluster

__all__ = ["Cluster"]
