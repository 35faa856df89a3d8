"""SASRec's user vectors for evaluation: the hidden state at the newest item of a history."""

from __future__ import annotations

import torch
from torch import Tensor

from models.recommenders import sasrec
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_batches import batches


@torch.no_grad()
def last_hidden(
    table: Tensor, shared: Tensor, shape: Shape, splits: Tensor, items: Tensor, max_batch_tokens: int = 16384
) -> Tensor:
    """(n, d): what every item row is multiplied with to score it for user k.

    ``table`` (num_items, d), ``shared`` (p,); user k's history is ``splits[k]:splits[k+1]`` of ``items``, in
    order of time; its newest ``shape.max_length`` items count. A user without history gets the zero vector.
    """
    weights = sasrec.unflatten(shared, shape)
    lengths = splits.diff().clamp(max=shape.max_length)
    hidden = table.new_zeros(len(lengths), shape.dim)
    for batch in batches(splits[1:], lengths, shape.max_length, max_batch_tokens):
        index = sasrec.position_index(batch.lengths, batch.places.shape[1], shape)
        inputs = sasrec.embed(table[items[batch.places]], weights.positions[index])
        states = sasrec.encode(inputs, weights)
        hidden[batch.users] = states[torch.arange(len(batch.users), device=states.device), batch.lengths - 1]
    return hidden
