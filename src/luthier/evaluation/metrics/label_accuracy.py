"""Label accuracy: is the label right? The label is the whole answer or its first line (``evaluation/labels.py`` says which)."""

from __future__ import annotations

from typing import Any

from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from luthier.evaluation.labels import Labels

title, unit, scale, higher_is_better = "label accuracy", "points of label accuracy", 100.0, True

OTHER = "(no known label)"


def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
    """1.0 when the label read off the answer is the expected one."""
    return float(labels.read(expected) == labels.read(answer))


def extras(expected: list[str], answers: list[str], *, labels: Labels) -> dict[str, Any]:
    """Precision, recall and F1 (mean over the labels that occur) and the confusion table.

    Answers that are no known label are counted in a last column, so that rows of the table add up to the items with that label.

    Returns:
        ``labels``: rows and columns of ``confusion`` (expected x given), ``per_label`` numbers, and the macro means.
    """
    if not labels.found:
        return {}
    names = sorted({labels.read(e) for e in expected} | set(labels.values))
    known = set(names)
    truth = [labels.read(e) for e in expected]
    given = [label if (label := labels.read(a)) in known else OTHER for a in answers]
    seen = sorted(set(truth))
    precision, recall, f1, support = precision_recall_fscore_support(truth, given, labels=seen, average=None, zero_division=0.0)
    columns = names + ([OTHER] if OTHER in given else [])
    table = confusion_matrix(truth, given, labels=columns)[: len(names)]
    return {
        "precision_macro": float(precision.mean()),
        "recall_macro": float(recall.mean()),
        "f1_macro": float(f1.mean()),
        "rows": names,
        "columns": columns,
        "confusion": table.tolist(),
        "per_label": [
            {"label": n, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for n, p, r, f, s in zip(seen, precision, recall, f1, support, strict=True)
        ],
    }
