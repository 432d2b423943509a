"""What the logits of a classifier mean."""

from torch import Tensor


def probabilities(logits: Tensor, temperature: float = 1.0, *, is_multi_label: bool = False) -> Tensor:
    """Turn logits `[n, k]` into probabilities.

    They are a softmax, or a sigmoid for each label.
    """
    scaled = logits.float() / temperature
    return scaled.sigmoid() if is_multi_label else scaled.softmax(1)
