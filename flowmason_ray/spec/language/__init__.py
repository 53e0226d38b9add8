"""The parts of the expression language; `spec.expressions` and `spec.templates` are its face and all that others import.

In the order in which an expression meets them: `syntax` (text → tree, by Jinja's lexer and parser), `references` (what the
tree reads), `compiler` (tree → Python closures), `values`, `arithmetic` and `writing` (what operators do, and how values become text), `catalogue` (names of all
filters, functions, tests and methods) with the modules that implement them, and `budget` (why everything ends).

No value's Python attribute is ever reached from here: operators and filters look at a value's exact type and do one of a
closed set of things with it.
"""
