"""The file format: models, reading, canonical form, expressions, diff and merge; later inheritance.

Here lives everything that is known about a `*.pipeline.json` before it is run: what may be written (`pipeline`), how it
is read (`loader`) and where each part of it stands in the file (`source`), which older spellings mean the same
(`spellings`), how it is written back (`formatting`), how its JSON Schemas are enforced (`input_schema`), and what differs
between two of them (`diff`) and how three become one (`merge`).

All of it is pure: besides reading one file, nothing here touches the world, knows a component or imports the engine.
"""
