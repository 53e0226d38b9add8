"""Handing work to a Ray cluster that outlives the command that hands it over.

`detaching` gives a run to a coordinator inside the cluster (`coordinator`, an actor that is restarted when its process dies;
`driving` is what it does, and knows no Ray). `submitting` sends a whole project as a Ray job. Neither drives a run in a way of
its own: both end in the same runner, on the same log. `fm` alone uses them, and imports them when it is asked to.
"""
