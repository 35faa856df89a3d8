"""The model that a node keeps between requests, so that it can be sent the rows that changed alone."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from protocol.downloads import WHOLE, Version, lacking_content, read_changes, read_version
from protocol.messages import model_record, read_course, read_model

Course = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kept:
    """A whole model, which number it has, and in which course of which run."""

    course: Course
    number: int
    model: ArrayRecord


_kept: dict[tuple[int, int], Kept] = {}


def completing(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod that makes the whole model of changed rows, or says that this node cannot.

    It keeps the model in memory: a node whose process is another one than before, or that missed a request, lacks
    the version that the changes count from.
    """
    version = read_version(message.content) if message.metadata.message_type in ("train", "evaluate") else None
    if version is None:
        return call_next(message, context)
    key = (context.run_id, context.node_id)
    for other in [known for known in _kept if known[0] != context.run_id]:
        del _kept[other]
    model = _whole(message.content, version, _kept.get(key))
    if model is None:
        return Message(lacking_content(), reply_to=message)
    _kept[key] = Kept(read_course(message.content), version.number, model)
    message.content = RecordDict({**dict(message.content.items()), "model": model})
    return call_next(message, context)


def _whole(content: RecordDict, version: Version, kept: Kept | None) -> ArrayRecord | None:
    received = content.array_records["model"]
    if version.base == WHOLE:
        return received
    if kept is None or (kept.course, kept.number) != (read_course(content), version.base):
        return None
    changes = read_changes(received)
    if not len(changes.items) and not len(changes.shared):
        return kept.model
    return model_record(changes.applied_to(read_model(RecordDict({"model": kept.model}))))
