"""Which number falls. One file per objective; the file name is the name in a Spec.

A file has ``Options`` (a `Strict` model) and ``Objective`` with

* ``learn``: which turns its rows learn, or ``None`` to leave that to ``data.learn``;
* ``pairs``: whether it compares the two answers of a preference row; without, the chosen one is learned and the rejected one not read;
* ``needs``, ``supports``: what it wants of the other parts of a Spec, and what it gives them, in the words of ``core/fit.py``;
* ``beside``: what it wants to know of every learned token before the first step, of {"reference", "teacher"}: the base's log-probability;
  the likeliest tokens of its ``teacher``, so many as ``top``, at its ``temperature``;
* ``meaning``: what the outputs of its head mean, or None where it learns next tokens;
* ``per``: what the loss of a step is a mean over: ``weight`` (of what is learned) or ``row``;
* ``rate``: its learning rate as a share of supervised tuning's;
* ``loss(forest)``: the **sum** over the rows of a forest. What a forest can be asked is in ``_forest.py``.

and may have

* ``reads``: what every row must have, of {"pairs", "judged", "tags"}: two answers, one better; a verdict on each; words and tags;
* ``judged``: how its runs are judged on held-out rows, where that is not by their answers or their head: ``nearness``, ``grade``;
* ``places``: names of options that say a file or a folder of this machine; none of them comes over the wire;
* ``settle(rows, valid, renderer, answers)``: those of its options that are ``auto``, from the rows, and a sentence for each;
* ``survey(forest)``, ``survey_shape(rows, width)``, ``aside``: a look at the whole step before any gradient (``engine/survey.py``);
* ``lay(rows, renderer, answers)``: the rows as it reads them, where that is not as they come from the table.

An objective knows no method, no model and no packing: rows of a step may come in one forest or in many, and only the sum counts. An
answer may be several paths (where a template rewrites earlier turns), so it adds up by row and part (`Forest.total`), never by path.
"""
