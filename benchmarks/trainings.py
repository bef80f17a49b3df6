"""A training from its start to its end, without the reports of ``train_main.py``."""

import time
from collections.abc import Callable

from dynalay_gym.cotraining.new_training import AnyTrainer
from dynalay_gym.networks.wrapped.training import WrappedTrainer


def train_to_end(
    trainer: AnyTrainer | WrappedTrainer,
    after_epoch: Callable[[], None] = lambda: None,
) -> float:
    """Take all epochs of a fresh training; return the processor's minutes.

    Args:
        trainer: The training.
        after_epoch: Called after each epoch; its time counts, too.
    """
    start = time.process_time()
    for _ in range(trainer.config.epochs):
        trainer.train_epoch(lambda step, loss: None)
        after_epoch()
    return (time.process_time() - start) / 60
