"""Affine folding: the same network without its BatchNormalizations, on the ONNX graph.

``fold_affine`` takes a model in memory, ``fold_file`` a file and tests what it wrote. The
mathematics stands at the top of ``kinds``; ``rules`` says what each operator is, ``forest``
chooses the scales, ``shifts`` the shifts, ``rewrite`` writes both into the weights.
"""

from fbn_deploy.export.folding.files import fold_file
from fbn_deploy.export.folding.fold import FLOAT16_LIMIT, fold_affine
from fbn_deploy.export.folding.report import Absorbed, FoldReport, LeftAlone, Stayed

__all__ = [
    "FLOAT16_LIMIT",
    "Absorbed",
    "FoldReport",
    "LeftAlone",
    "Stayed",
    "fold_affine",
    "fold_file",
]
