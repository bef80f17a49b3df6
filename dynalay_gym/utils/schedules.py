"""Schedules of a training: numbers that change with the share that is done.

Learning rates take them through ``torch.optim.lr_scheduler.LambdaLR``; exploration,
entropy bonuses and temperatures call them directly.
"""

LEARNING_RATE_END = 0.1  # share of a step size that is left at the end


def linear(start: float, end: float, share: float) -> float:
    """Return start + share * (end - start).

    Args:
        start: Value at the beginning.
        end: Value at the end.
        share: Share of the training that is done, in [0, 1].
    """
    return start + share * (end - start)


def geometric(start: float, end: float, share: float) -> float:
    """Return start^(1 - share) * end^share; linear where one end is 0.

    Args:
        start: Value at the beginning, at least 0.
        end: Value at the end, at least 0.
        share: Share of the training that is done, in [0, 1].
    """
    if min(start, end) == 0.0:
        return linear(start, end, share)
    return float(start ** (1.0 - share) * end**share)
