"""The file format: models, reading, canonical form, expressions; later inheritance, diff and merge.

Here lives everything that is known about a `*.pipeline.json` before it is run: what may be written (`pipeline`), how it
is read (`loader`) and where each part of it stands in the file (`source`), which older spellings mean the same
(`spellings`), how it is written back (`formatting`), and how its JSON Schemas are enforced (`input_schema`).

All of it is pure: besides reading one file, nothing here touches the world, knows a component or imports the engine.
"""
