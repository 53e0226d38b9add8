"""`policy_lookup`: the policies that apply, by id, by tag, or by what is asked.

They lie in files of the project (Markdown or JSON), which people review like code, or in a collection of the vector store
when there are so many that they are searched by meaning.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.retriever import SearchInput, retrieve
from flowmason_ray.components.compliance.policies import Policy, ranked, read_policies
from flowmason_ray.components.connection_names import names_connection
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError, nearest


class FoundPolicy(Policy):
    """A policy that was found."""

    score: float | None = Field(default=None, description="How well it fits the query; null without one.")


@node(effect="idempotent", cost="io", category="compliance")
class PolicyLookup:
    """Finds policies in files or in a collection: by id, by tag, by words or meaning of a query."""

    class Input(BaseModel):
        """Which policies."""

        model_config = closed({"path": "policies", "query": "May I accept a gift?", "top_k": 3})

        path: str | None = Field(
            default=None, description="A file or directory of the project; null: 'policies', if no collection is named."
        )
        collection: str | None = Field(
            default=None,
            description="Or a collection in which policies were indexed; needs 'query', searched by meaning.",
        )
        ids: list[str] = Field(default=[], description="Only these. One that is not there is an error.")
        tags: list[str] = Field(default=[], description="Only those with any of these tags.")
        query: str | None = Field(default=None, min_length=1, description="What is asked; the best fitting come first.")
        top_k: int = Field(default=10, ge=1, le=1000, description="How many a query returns at most.")
        mode: Literal["vector", "text", "hybrid"] = Field(
            default="vector", description="How a collection is searched (see retriever)."
        )
        connection: str | None = Field(
            default=None,
            description="Where the collection is (see retriever).",
            json_schema_extra=names_connection("postgres"),
        )

        @model_validator(mode="after")
        def _one_place(self) -> Self:
            if self.path is not None and self.collection is not None:
                raise ValueError("give 'path' or 'collection', not both")
            if self.collection is not None and self.query is None:
                raise ValueError("a 'collection' is searched: give 'query'")
            if self.collection is not None and self.ids:
                raise ValueError("'ids' are for files; in a collection policies are searched")
            return self

    class Output(BaseModel):
        """What was found."""

        policies: list[FoundPolicy] = Field(description="The policies.")
        count: int = Field(description="How many there are.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Look them up.

        Raises:
            PermanentError: an id is not there (`unknown_policy`), or the files are not right.
        """
        if input.collection is not None:
            found = await _searched(input, input.collection, context)
        else:
            found = await asyncio.to_thread(_looked_up, input, context)
        if not found:
            context.log("warning", "No policy fits.")
        return self.Output(policies=found, count=len(found))


def _looked_up(input: PolicyLookup.Input, context: Context) -> list[FoundPolicy]:
    path = input.path or "policies"
    policies = read_policies(context.project_dir, path)
    by_id = {policy.id: policy for policy in policies}
    for id in input.ids:
        if id not in by_id:
            near = nearest(id, by_id)
            raise PermanentError(
                f"There is no policy {id!r} in {path!r}.{f' Did you mean {near!r}?' if near else ''}",
                code="unknown_policy",
            )
    if input.ids:
        policies = [by_id[id] for id in dict.fromkeys(input.ids)]
    if input.tags:
        policies = [policy for policy in policies if {*policy.tags} & {*input.tags}]
    if input.query is None:
        return [FoundPolicy(**policy.model_dump()) for policy in policies]
    best = ranked(policies, input.query)[: input.top_k]
    return [FoundPolicy(**policy.model_dump(), score=score) for policy, score in best]


async def _searched(input: PolicyLookup.Input, collection: str, context: Context) -> list[FoundPolicy]:
    assert input.query is not None
    search = SearchInput(
        query=input.query, collection=collection, top_k=1000 if input.tags else input.top_k, mode=input.mode,
        connection=input.connection,
    )  # fmt: skip
    found, _ = await retrieve(search, context)
    policies: list[FoundPolicy] = []
    for each in found:
        about: dict[str, Any] = {k: v for k, v in each.metadata.items() if k in ("title", "severity", "version")}
        tags = [str(tag) for tag in each.metadata.get("tags") or ()]
        if input.tags and not {*tags} & {*input.tags}:
            continue
        policies.append(
            FoundPolicy(
                id=str(each.metadata.get("id", each.id)), text=each.content, tags=tags, source=each.source,
                score=each.score, metadata=each.metadata, **about,
            )
        )  # fmt: skip
    return policies[: input.top_k]
