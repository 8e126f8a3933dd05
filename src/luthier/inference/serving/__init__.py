"""Serving: many questions answered at once by one base and its adapters. No database and no HTTP here.

    ask.py         what is asked and what comes back              batcher.py     the engine: one thread, one step after the other
    turns.py       who is next, fair by key                       rows.py        one answer on its way
    places.py      beginnings that are known, as a tree           drawing.py     the next token of each row
    crowd.py       adapters in memory                             voice.py       tokens to text, stop strings, tool calls

Keys and values lie in one pool of numbered places (``models/pool.py``); rows that begin alike name the same places.
"""
