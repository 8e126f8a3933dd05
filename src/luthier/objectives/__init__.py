"""Which number falls. One file per objective; the file name is the name in a Spec.

A file has ``Options`` (a `Strict` model) and ``Objective`` with

* ``learn``: which turns its rows learn, or ``None`` to leave that to ``data.learn``;
* ``pairs``: whether it compares the two answers of a preference row; without, the chosen one is learned and the rejected one not read;
* ``linear``: whether the loss is ``-sum(weights * logprobs)``, so that the engine may use its cheaper head;
* ``loss(logprobs_N, learned)``: the **sum** over the forest, in nats. The engine divides by the learned weight of the whole step.
"""
