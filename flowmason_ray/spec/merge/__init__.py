"""Three versions of a pipeline into one: by name, never by position or line.

`three_way` walks three trees at once and decides part by part; `ordering` does the same for what has an order but no meaning
in it; `frame` gives renamed stages one name on all sides first; `meaning` finds what is broken in a result although nothing
in it collided, and `blame` the two edits behind it; `conflicts` is what could not be decided, as data, and how it is decided
later; `merging` puts these together; `marks` keeps a file with open conflicts from being taken for a pipeline.
"""
