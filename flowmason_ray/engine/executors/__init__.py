"""The executors: in this process, and on Ray. Each carries out the commands of `engine.commands` behind the port
`engine.executor` and proves itself in the conformance suite. Only `ray_*` modules import Ray.
"""
