"""A component of one's own: a class with an `Input`, an `Output` and `execute`, and `@operator` to say what it is."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, Field

from flowmason_ray import Context, PermanentError, operator
from flowmason_ray.components.frames import Frame


# "pure": the output depends on the input alone, so it may be cached, repeated and grouped with other stages.
@operator(effect="pure", category="weather")
class HeatWaves:
    """Finds stretches of hot days."""

    class Input(BaseModel):
        table: Frame = Field(description="Days with the columns `date` and `temp_max`, in order.")
        threshold: float = Field(default=28.0, description="From which daily maximum on (°C) a day is hot.")
        days: int = Field(default=3, ge=1, description="How many hot days in a row make a heat wave.")

    class Output(BaseModel):
        table: Frame = Field(description="One row per heat wave: `begin`, `days`, `hottest`.")
        count: int = Field(description="How many there were.")
        longest_days: int = Field(description="How long the longest was.")

    def execute(self, input: Input, context: Context) -> Output:
        missing = {"date", "temp_max"} - set(input.table.columns)
        if missing:
            # A permanent error is not retried; its message is what the user sees.
            raise PermanentError(f"The table has no column {sorted(missing)[0]!r}.", code="unknown_column")
        hot = pl.col("temp_max") >= input.threshold
        waves = (
            input.table.with_columns(hot=hot, stretch=hot.rle_id())
            .filter("hot")
            .group_by("stretch", maintain_order=True)
            .agg(begin=pl.col("date").first(), days=pl.len(), hottest=pl.col("temp_max").max())
            .filter(pl.col("days") >= input.days)
            .drop("stretch")
        )
        context.log("info", "Looked for heat waves.", found=waves.height)
        longest = waves["days"].max() if waves.height else 0
        return self.Output(table=waves, count=waves.height, longest_days=int(str(longest)))
