"""The learning rate of a step, from the step alone: what resumes there goes on with the same."""

import math

from steelyard.params import Training

RISE = 0.3  # part of a one-cycle training in which the rate rises
FIRST, LAST = 1 / 25, 1 / 250_000  # of the highest rate; these three are those of torch's OneCycleLR


def learning_rate(recipe: Training, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        recipe: its highest rate and how it gets there.
        step: from 0.
        steps: in all.

    One cycle is that of Smith & Topin (2019): up and down in half cosines. Cosine falls in one half cosine to 0
    (Loshchilov & Hutter 2017), after a linear warm-up.
    """
    if recipe.schedule == "one-cycle":
        top = max(1.0, RISE * steps - 1)
        if step <= top:
            return recipe.learning_rate * _between(FIRST, 1.0, step / top)
        return recipe.learning_rate * _between(1.0, LAST, (step - top) / max(1.0, steps - 1 - top))
    warmup = steps * recipe.warmup_epochs / recipe.epochs
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    return recipe.learning_rate * _between(1.0, 0.0, (step - warmup) / (steps - warmup))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
