"""Labels as people write them: numbers, ranges, names, all, random."""

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.generation.labels import choose_labels

NAMES = ("cat", "dog", "sea-lion", "4-6")


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ("0-2", [0, 1, 2]),
        ("3,0-1", [3, 0, 1]),
        ("cat,dog", [0, 1]),
        ("sea-lion, 1", [2, 1]),
        ("4-6", [3]),
        (["dog", 0], [1, 0]),
        (2, [2]),
        (np.array([1, 3]), [1, 3]),
        ("all", [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_labels_are_given_in_turn(labels, chosen):
    found = choose_labels(labels, 9, 4, 0, NAMES)
    np.testing.assert_array_equal(found, np.resize(chosen, 9))
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("cta", r"labels=cta: cta is no class; did you mean cat\?"),
        ("x", "give numbers as in 3,7 or 0-9, class names such as cat, all or random"),
        ("2-0", "2-0 runs backwards; give 0-2"),
        ("0-4", r"labels=0-4: 4 is not among 0\.\.3"),
        ("1,,2", "nothing is no class"),
    ],
)
def test_others_are_refused_with_what_would_be_right(labels, says):
    with pytest.raises(UserError, match=says):
        choose_labels(labels, 4, 4, 0, NAMES)
