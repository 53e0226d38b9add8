"""The built-in catalogue: names and where their classes are, without importing them.

One file per family. A test checks that every entry loads and declares the name it is listed under.
"""

from __future__ import annotations

_HERE = "flowmason_ray.components.builtin"

BUILTIN: dict[str, str] = {
    "conditional": f"{_HERE}.branches:Conditional",
    "router": f"{_HERE}.branches:Router",
    "parallel": f"{_HERE}.branches:Parallel",
    "trycatch": f"{_HERE}.branches:TryCatch",
    "foreach": f"{_HERE}.loops:Foreach",
    "break_loop": f"{_HERE}.loops:BreakLoop",
    "continue_loop": f"{_HERE}.loops:ContinueLoop",
    "loop": f"{_HERE}.loops:Loop",
    "subpipeline": f"{_HERE}.calls:Subpipeline",
    "return": f"{_HERE}.calls:Return",
    "wait_for_approval": f"{_HERE}.calls:WaitForApproval",
    "variable_set": f"{_HERE}.variables:VariableSet",
    "json_transform": f"{_HERE}.json_transform:JsonTransform",
    "filter": f"{_HERE}.filter:Filter",
    "schema_validate": f"{_HERE}.schema_validate:SchemaValidate",
    "logger": f"{_HERE}.logger:Logger",
    "http_request": f"{_HERE}.http_request:HttpRequest",
    "local_file": f"{_HERE}.local_file:LocalFile",
    "table_read": f"{_HERE}.table_files:TableRead",
    "table_sql": f"{_HERE}.table_sql:TableSql",
    "table_aggregate": f"{_HERE}.table_shape:TableAggregate",
    "table_join": f"{_HERE}.table_shape:TableJoin",
    "table_write": f"{_HERE}.table_files:TableWrite",
    "generator": f"{_HERE}.text_generation:Generator",
    "chat": f"{_HERE}.text_generation:Chat",
    "critic": f"{_HERE}.text_review:Critic",
    "improver": f"{_HERE}.text_review:Improver",
    "combiner": f"{_HERE}.text_choice:Combiner",
    "selector": f"{_HERE}.text_choice:Selector",
    "analyzer": f"{_HERE}.text_reading:Analyzer",
    "classifier": f"{_HERE}.text_reading:Classifier",
    "extractor": f"{_HERE}.text_reading:Extractor",
    "summarizer": f"{_HERE}.text_rewriting:Summarizer",
    "rewriter": f"{_HERE}.text_rewriting:Rewriter",
    "translator": f"{_HERE}.text_rewriting:Translator",
    "embedder": f"{_HERE}.embedding:Embedder",
    "transcriber": f"{_HERE}.media:Transcriber",
    "text_to_speech": f"{_HERE}.media:TextToSpeech",
    "image_describe": f"{_HERE}.media:ImageDescribe",
    "chart": f"{_HERE}.chart:Chart",
    "report": f"{_HERE}.report:Report",
}
"""Canonical name → `module:Class`."""

ALIASES: dict[str, str] = {"switch_router": "router", "synthesizer": "combiner"}
"""Older or second names → canonical names."""
