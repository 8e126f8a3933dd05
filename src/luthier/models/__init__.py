"""Base models: find, load, describe. torch begins here."""

import os

KERNELS_KEPT = 256
"""Matmul kernels kept by each of oneDNN's two caches, one for each shape. Forests of all sizes come by, and the usual 1,024 grew to 600 MB
in forty steps of luthier-mini in bf16. A forest needs 100 to 250 of them; a new one takes 0.1 to 0.2 ms (docs/log.md)."""

for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read once, before the first matmul
    os.environ.setdefault(_name, str(KERNELS_KEPT))
