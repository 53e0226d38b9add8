"""Where run logs and blobs live: the implementations of the engine's `RunStore` and blob ports.

Stores know events and bytes; they never see a plan, an executor or a component.
"""
