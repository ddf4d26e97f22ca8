"""How lines are cut into batches and padded."""

import numpy as np

from seqgen.decoding import DecodeConfig
from seqgen.decoding.batching import pad_rows, padded_shape, plan_batches, round_width
from seqgen.decoding.id_tables import power_of_two


def test_batches_cover_every_line_once_and_keep_their_budget():
    config = DecodeConfig(num_beams=4, batch_size=24, batch_tokens=2000)
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 90, 200).tolist(), 700]
    batches = plan_batches(lengths, config)
    assert sorted(place for batch in batches for place in batch) == list(range(201))
    shapes = set()
    for batch in batches:
        padded = pad_rows([[5] * lengths[place] for place in batch], config, limit=None)
        rows, width = padded.ids.shape
        assert len(batch) <= rows <= 24
        assert rows * width * 4 <= 2000 or rows == 1
        assert padded.segments.sum(axis=1)[: len(batch)].tolist() == [lengths[i] for i in batch]
        assert np.all(padded.ids[len(batch) :] == padded.ids[len(batch) - 1])
        shapes.add((rows, width))
    assert len(shapes) <= 12
    narrow = pad_rows([[5] * 18], config, limit=20)
    assert narrow.ids.shape == (1, 20)


def test_shapes_are_few_and_hold_the_lines_up_to_the_limits():
    config = DecodeConfig(batch_size=6)
    assert padded_shape([3, 40, 17], config, limit=None) == (4, 48)
    assert padded_shape([18], config, limit=20) == (1, 20)
    assert padded_shape([1] * 5, config, limit=20) == (6, 16)


def test_widths_are_few_and_sufficient():
    widths = [round_width(length) for length in range(1, 2000)]
    assert all(width >= length for length, width in enumerate(widths, 1))
    ladder = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert sorted(set(widths)) == ladder


def test_powers_of_two_are_the_smallest_that_suffice():
    powers = [1 << n for n in range(12)]
    for count in range(1, 1100):
        assert power_of_two(count) == next(power for power in powers if power >= count)
        assert power_of_two(count, fewest=16) == max(16, power_of_two(count))
