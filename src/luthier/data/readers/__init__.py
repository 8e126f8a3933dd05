"""What a row *means*. One file per format; how rows lie in the file is the containers' business, so every format works in every container.

A reader is a module with

* ``KNOWN: frozenset[str]``: the fields it uses. Another field is told to the user, never ignored silently;
* ``fits(row: dict) -> float``: how surely a row is one of mine, 0 to 1. Called on the first rows of a file, looks at keys and types only;
* ``SHAPE: str``: what its rows look like, in one phrase for messages;
* ``example(row: dict, source: Source, findings: Findings) -> Example | None``: the row as an Example. What is wrong goes to
  ``findings.add(...)``; None when there were errors. A reader judges types and names; whether turns make sense is the rules' business
  (`luthier.data.rules`), the same for all formats.

To add one: a file here. `luthier.data.recognise` finds it by itself.
"""
