"""Documents: reading files of several formats into text with positions, and cutting text into chunks.

What lives here knows nothing of stages; the components around it are in `builtin.document_reader` and `builtin.chunker`.
Each format is a module of its own, because each needs a library of its own, which is imported only when such a file is read.
"""
