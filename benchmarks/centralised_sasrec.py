"""Train the same SASRec centrally, so that a federated shortfall can be told from one of the model.

    OMP_NUM_THREADS=1 python -m benchmarks.centralised_sasrec --minutes 40

Minibatches of 128 users, Adam, the federated client's loss and dropout, one negative for every position drawn afresh
in every step. Prints a line each ``--every`` epochs: HR@5 and NDCG@5 of validation and test by the
all-ranking leave-one-out protocol.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import data
import draws
from data.interactions import leave_one_out
from data.shard import Shard, shard_of
from draws import Stream
from metrics.ranked import HeldOut, ranked
from models.recommenders import dropout, sasrec
from models.recommenders.cohort import Cohort, cohort_of, negative_items
from models.recommenders.loss import LossOptions
from models.recommenders.sasrec import Shape
from models.recommenders.sasrec_batches import batches
from models.recommenders.sasrec_cohort import draw_masks, pair_losses
from models.recommenders.sasrec_scoring import last_hidden

BATCH_TOKENS = 2048


def main() -> None:
    """Train until the minutes are over."""
    options = _options()
    shard = _shard(options.dataset)
    shape = Shape(max_length=options.max_length)
    generator = draws.generator(options.seed, Stream.INITIAL_MODEL)
    bound = math.sqrt(6 / (shard.num_items + shape.dim))
    table = torch.from_numpy(generator.uniform(-bound, bound, (shard.num_items, shape.dim)).astype(np.float32))
    shared = sasrec.initial_shared(shape, generator)
    parameters = [table.requires_grad_(), shared.requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    print(f"{len(shard)} users, {shard.num_items} items, {torch.get_num_threads()} threads")
    print("epoch  minutes    loss  valid HR@5  NDCG@5  test HR@5  NDCG@5", flush=True)
    started, step, epoch = time.monotonic(), 0, 0
    while (minutes := (time.monotonic() - started) / 60) < options.minutes and epoch < options.epochs:
        total = 0.0
        order = draws.generator(options.seed, Stream.BATCHES, epoch).permutation(shard.users)
        parts = np.array_split(order, max(1, round(len(order) / options.batch_users)))
        for users in parts:
            step += 1
            optimizer.zero_grad()
            total += _backward(table, shared, shape, cohort_of(shard, users), options, step)
            optimizer.step()
        epoch += 1
        if epoch % options.every == 0:
            cells = "  ".join(f"{value:9.4f}" for value in _evaluate(table, shared, shape, shard))
            minutes = (time.monotonic() - started) / 60
            print(f"{epoch:5d}  {minutes:7.1f}  {total / len(parts):6.4f}  {cells}", flush=True)


def _backward(
    table: Tensor, shared: Tensor, shape: Shape, cohort: Cohort, options: argparse.Namespace, step: int
) -> float:
    """Add the gradient of the mean loss over all positions of one minibatch; return that loss."""
    negatives = torch.from_numpy(negative_items(cohort, LossOptions(negatives="fresh"), options.seed, step))
    items = torch.from_numpy(cohort.items)
    keys = dropout.user_keys(options.seed, step, cohort.users)
    lengths = torch.from_numpy(cohort.counts - 1).clamp(min=0, max=shape.max_length)
    total = 0.0
    for batch in batches(torch.from_numpy(cohort.splits)[1:], lengths, shape.max_length, BATCH_TOKENS):
        width = batch.places.shape[1]
        weights = sasrec.unflatten(shared, shape)
        touched = torch.stack((items[batch.places - 1], items[batch.places], negatives[batch.places]))
        inputs, positives, others = functional.embedding(touched, table)
        positions = weights.positions[sasrec.position_index(batch.lengths, width, shape)]
        masks = draw_masks(keys[batch.users], width, shape, options.dropout, table.dtype) if options.dropout else None
        states = sasrec.encode(sasrec.embed(inputs, positions), weights, masks)
        losses = pair_losses(states, positives - others, batch.real)
        loss = (losses * batch.lengths).sum() / lengths.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _evaluate(table: Tensor, shared: Tensor, shape: Shape, shard: Shard) -> list[float]:
    """HR@5 and NDCG@5 of validation (scored from the train items), then of test (from those and validation)."""
    evaluated = shard.users[shard.valid >= 0]
    cohort = cohort_of(shard, evaluated)
    valid = shard.valid[cohort.slots].astype(np.int64)
    test = shard.test[cohort.slots].astype(np.int64)
    table, shared = table.detach(), shared.detach()
    metrics = []
    histories = [(cohort.splits, cohort.items), _with_last(cohort, valid)]
    for (splits, items), target, masked in zip(histories, (valid, test), (np.full_like(valid, -1), valid), strict=True):
        hidden = last_hidden(table, shared, shape, torch.from_numpy(splits), torch.from_numpy(items))
        held_out = HeldOut(cohort.users, cohort.splits, cohort.items, target, masked)
        ranks = torch.cat([block.ranks for block in ranked(table, hidden, held_out)])
        top = ranks <= 5
        metrics += [top.double().mean().item(), (top / (ranks + 1.0).log2()).double().mean().item()]
    return metrics


def _with_last(cohort: Cohort, last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The histories' splits and items with one more item at the end of each."""
    return cohort.splits + np.arange(len(cohort.splits)), np.insert(cohort.items, cohort.splits[1:], last)


def _shard(dataset: str) -> Shard:
    split = leave_one_out(data.load(dataset))
    return shard_of(split, np.arange(split.num_users))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--epochs", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=10, help="epochs between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-users", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=200)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
