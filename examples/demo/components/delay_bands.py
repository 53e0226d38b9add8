"""A component of this project: any file in `components/` is found by its name in a pipeline's `component_type`."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, Field

from flowmason_ray import Context, operator
from flowmason_ray.components.frames import Frame

BANDS = ["early", "on time", "late", "very late"]


@operator(effect="pure", category="flights")
class DelayBands:
    """Sorts flights into bands by their delay, and says in figures what a table of flights holds."""

    class Input(BaseModel):
        flights: Frame = Field(description="Flights with a column `delay`, in minutes.")
        late_minutes: int = Field(default=15, ge=1, description="From which delay on a flight counts as late.")
        very_late_minutes: int = Field(default=60, description="From which delay on it counts as very late.")

    class Output(BaseModel):
        table: Frame = Field(description="The flights with two more columns: `band` and `late` (0 or 1).")
        flights: int = Field(description="How many flights.")
        late_percent: float = Field(description="The share of late flights, in percent.")
        median_delay: float = Field(description="The median delay, in minutes.")
        worst_delay: int = Field(description="The longest delay, in minutes.")
        bands: list[str] = Field(description="The bands, from early to very late.")

    def execute(self, input: Input, context: Context) -> Output:
        delay = pl.col("delay")
        band = (
            pl.when(delay < 0)
            .then(pl.lit(BANDS[0]))
            .when(delay < input.late_minutes)
            .then(pl.lit(BANDS[1]))
            .when(delay < input.very_late_minutes)
            .then(pl.lit(BANDS[2]))
            .otherwise(pl.lit(BANDS[3]))
        )
        table = input.flights.with_columns(band=band, late=(delay >= input.late_minutes).cast(pl.Int8))
        context.log("info", "Sorted flights into bands.", flights=table.height)
        figures = table.select(late=pl.col("late").mean(), median=delay.median(), worst=delay.max()).row(0, named=True)
        return self.Output(
            table=table,
            flights=table.height,
            late_percent=round(100 * (figures["late"] or 0), 1),
            median_delay=figures["median"] or 0,
            worst_delay=figures["worst"] or 0,
            bands=BANDS,
        )
