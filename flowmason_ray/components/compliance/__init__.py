"""Compliance: policies as files, rules that are judged without a model, and what a model says about texts and policies.

What lives here knows nothing of stages; the components are `policy_lookup`, `rule_checker` and `compliance_evaluator`.
"""
