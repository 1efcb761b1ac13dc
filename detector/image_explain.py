"""Why an image scores as it does: what the network makes of it, and where that differs; it judges nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detector.explain import Contribution, Explanation, ImageExplanation
from detector.records import Records

if TYPE_CHECKING:
    from detector.image_records import ImageEncoder
    from detector.image_scoring import ImageScorer


def explain_images(
    encoder: ImageEncoder, scorer: ImageScorer, records: Records, *, is_sensitive: bool
) -> tuple[Explanation, ...]:
    """Explain each of a few images; of a sensitive one nothing is shown but that it was its image.

    The reconstruction is of the blurred image, which the error is measured against: a network never saw any other.
    """
    matrix = encoder.encode(records)  # (n, d)
    rebuilt, blurred = scorer.reconstruct(matrix), scorer.blurred(matrix)
    feature = encoder.feature
    planes = np.abs(rebuilt - blurred).reshape(-1, feature.channels, feature.height, feature.width)
    errors = planes.mean(axis=1) * np.float32(255)  # (n, h, w)
    images = encoder.images(rebuilt)
    share = Contribution(feature=feature.label, share=1.0, actual=None, expected=None, sensitive=is_sensitive)
    return tuple(
        Explanation(
            contributions=(share,),
            others=0.0,
            explained_by="residual",
            missing_fields=(),
            unseen_categories=(),
            out_of_range_fields=(),
            image=None if is_sensitive else ImageExplanation(images[row], errors[row]),
        )
        for row in range(len(records))
    )
