"""The laws of the engine, examined on thousands of simulated runs; each follows from a seed and can be replayed.

    pipelines   generated pipeline data: every construct inside every other
    fate        what every attempt comes to, decided beforehand
    world       a virtual clock and executor: delays, disorder, doubled and late reports
    history     what happened, instance by instance
    invariants  what holds after every event
    shapes, oracle   what must come of a run: a direct interpreter of the format's rules
    runs        one run from a seed; crash and replay

Only `engine.run_state` and planning are the engine's own; everything else is independent of it. Run it with
`python -m flowmason_ray.testing.simulation`.
"""
