"""Reading earlier runs for a run that takes results from them, and telling beforehand what it will take.

What is decided while the run goes on is in `engine.reuse`; here is what comes before: reading the logs (`loading`), what a
caller may ask for (`asking`), and the outlook that is printed (`outlook`).
"""
