"""Storage that tests hardly wait for, but slow enough for chunks in memory to save time."""

from pliant.contexts.storage import StorageProfile

FAST = StorageProfile(bandwidth=3e7, latency_s=0.0)
