"""Draws directed graphs with nested boxes as SVG, without any external program.

`graph` says what is drawn, `layout` where everything goes, `svg` how it looks. Pure: knows nothing of pipelines, files or
terminals, so that the plan, a diff and a debugger can all draw with it.
"""
