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
    "aggregate": f"{_HERE}.rows_summed:Aggregate",
    "join": f"{_HERE}.rows_summed:Join",
    "pivot": f"{_HERE}.rows_pivoted:Pivot",
    "unpivot": f"{_HERE}.rows_pivoted:Unpivot",
    "sort": f"{_HERE}.rows_chosen:Sort",
    "deduplicate": f"{_HERE}.rows_chosen:Deduplicate",
    "sample": f"{_HERE}.rows_chosen:Sample",
    "chart": f"{_HERE}.chart:Chart",
    "report": f"{_HERE}.report:Report",
    "sql_query": f"{_HERE}.sql_query:SqlQuery",
    "sql_execute": f"{_HERE}.sql_execute:SqlExecute",
    "postgres": f"{_HERE}.postgres:Postgres",
    "redis": f"{_HERE}.redis_store:RedisStore",
    "s3": f"{_HERE}.s3:S3",
    "webhook": f"{_HERE}.webhook:Webhook",
    "email": f"{_HERE}.email_send:Email",
    "queue": f"{_HERE}.queue_publish:QueuePublish",
    "output_router": f"{_HERE}.output_router:OutputRouter",
    "error_router": f"{_HERE}.error_router:ErrorRouter",
    "document_reader": f"{_HERE}.document_reader:DocumentReader",
    "chunker": f"{_HERE}.chunker:Chunker",
    "index_documents": f"{_HERE}.index_documents:IndexDocuments",
    "retriever": f"{_HERE}.retriever:Retriever",
    "knowledge_query": f"{_HERE}.knowledge_query:KnowledgeQuery",
    "policy_lookup": f"{_HERE}.policy_lookup:PolicyLookup",
    "rule_checker": f"{_HERE}.rule_checker:RuleChecker",
    "compliance_evaluator": f"{_HERE}.compliance_evaluator:ComplianceEvaluator",
}
"""Canonical name → `module:Class`."""

ALIASES: dict[str, str] = {"switch_router": "router"}
"""Older or second names → canonical names."""
