"""Which weights move. One file per method; the file name is the name in a Spec.

A method is a module with

    class Options(Strict)                its settings, each with its help below it
    class Method:
        supports                         what it can do, of {"merge", "packed", "swap", "peft"}
        folder_name                      what `save` fills is called in a run: "adapter" or "model"
        __init__(options)
        attach(model, seed=, name=)      place slots, choose what trains; the model answers as before until the first step
        groups(model)                    -> [ParameterGroup]: what moves, for the optimiser
        state(model), load_state         exactly what moves, by stable names
        save(model, folder)              standard layout on disk, whole or not at all
        load(model, folder, name=)       classmethod: attach what `save` wrote
        merge(model)                     fold into the base, leaving a plain network
        active(model, on)                context manager: tuned answers, or the base's

``tests/methods/test_contract.py`` holds every file of this folder to it. A method never looks at the base's packed weights, never
imports another method, and knows no objective.
"""
