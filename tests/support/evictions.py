"""Puts contexts into the states that memory pressure leaves them in."""

from pliant.contexts.contexts import Contexts


def empty_slots(contexts: Contexts) -> None:
    """Evict every slot: compressed chunks are left in memory."""
    contexts.flush()
    memory = contexts._shared.memory
    for slot in memory._slots.values():
        if slot.context is not None:
            memory.drop(slot.context)


def forget_memory(contexts: Contexts) -> None:
    """Evict slots and compressed chunks: only the disk is left."""
    empty_slots(contexts)
    for key in list(contexts._shared.memory._chunks):
        contexts._shared.memory.forget(key)
