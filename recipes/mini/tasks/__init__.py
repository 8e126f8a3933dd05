"""Kinds of short instructions. One file per kind: a file here with ``SHARE`` and ``make`` takes part, nothing else to register.

``SHARE`` is its weight among the kinds; ``make(dice)`` writes one `Task`. All texts are ours; the variety comes from combining parts.
"""
