"""Which weights move. One file per method; the file name is the name in a Spec.

A method is a module with

    class Options(Strict)                its settings, each with its help below it
    class Method:
        supports                         what it can do, in the words below; an instance may say less than its class
        needs                            what it wants of the base, in the words of ``core/fit.py``
        folder_name                      what `save` fills is called in a run: "adapter" or "model"
        __init__(options)
        attach(model, seed=, name=)      place slots, choose what trains
        groups(model)                    -> [ParameterGroup]: what moves, for the optimiser
        state(model), load_state         exactly what moves, by stable names
        save(model, folder)              standard layout on disk, whole or not at all
        load(model, folder, name=)       classmethod: attach what `save` wrote
        merge(model)                     where it supports it: fold into the base, leaving a plain network
        active(model, on)                context manager: tuned answers, or the base's
        occupies()                       may be missing: tokens of the context that are not for rows

    begins-as-base   the model answers as before until the first step
    merge            it folds into the weights        packed    works on packed weights, which it leaves alone
    swap             the base can be asked, and several are hosted and named       batch    also within one batch
    peft             its files are PEFT's layout      trees     works in token trees
    fused            known blocks run fused with it   whole     moves the network's own weights
    still            nothing of the network moves: states can be kept
    strength         its part can be scaled, 0 to 1   combine   several of them become one

``tests/methods/test_contract.py`` holds every file of this folder to it. A method never looks at the base's packed weights, never
imports another method, and knows no objective.
"""
