"""What differs between two pipelines, as data: structural, keyed by stage, never by position.

`tree` turns a canonical document into nested maps in which everything that has a name is found by it, and `equality` says when
two of them are the same; `naming` finds and rewrites the ids of stages wherever they are said; `matching` finds stages that were
renamed; `comparing` makes a `Diff` of two documents, and applies and inverts it; `structure` knows edges and bodies; `report`
groups a diff for readers; `words` compares long texts; `documents` makes documents of files. Nothing here knows a component or
writes for people.
"""
